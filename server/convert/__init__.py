"""Protobuf to the engine's words and back. The only place that knows both."""
