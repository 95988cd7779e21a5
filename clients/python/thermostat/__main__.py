"""`python -m thermostat` is the `thermostat` command."""

from thermostat.cli import main

if __name__ == "__main__":
    main(prog_name="thermostat")
