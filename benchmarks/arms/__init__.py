"""What is timed, one process each, behind one protocol: see worker.py."""
