"""The sampler as machine code for the processor."""
