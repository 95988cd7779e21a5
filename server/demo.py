"""`make demo`: the real server on a free port, one prompt under three policies, and the server's orderly end."""

import subprocess
import sys
from collections.abc import Sequence

POLICIES = ("fixed", "entropy_band", "target_entropy")


def main(arguments: Sequence[str]) -> int:
    """Run `thermostat compare` with `arguments` on a server of its own; its exit status."""
    command = [sys.executable, "-m", "server", "--port", "0", "--log-level", "warning"]
    print("A server starts; the very first time that takes half a minute.", file=sys.stderr)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line.startswith("listening on "):
            return server.wait() or 1
        try:
            address = line.removeprefix("listening on ").strip()
            compare = [sys.executable, "-m", "thermostat.cli", "--server", address, "compare", *arguments]
            return subprocess.run(compare, check=False).returncode
        finally:
            server.terminate()


if __name__ == "__main__":
    # No space at the end of the prompt: the tokenizer puts it at the start of the next word.
    chosen = sys.argv[1:] or ["import os\n\n\nclass Parser:\n    def", "--seed", "7", "--show-steps", "-n", "48"]
    sys.exit(main([*chosen, *(word for policy in POLICIES for word in ("--policy", policy))]))
