"""Other engines, each in a virtual environment of its own: `make bench-peers`."""
