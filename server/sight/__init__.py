"""What an operator sees: a line a request, metrics, traces. Never a prompt, never a token's text."""
