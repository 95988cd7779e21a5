"""The engine: submit, cancel, state. One thread owns the model; nothing here knows of gRPC or protobuf."""
