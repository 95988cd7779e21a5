"""The Thermostat server: an engine that decodes many requests at once, and the gRPC service in front of it."""

__version__ = "0.1.0"
