"""The sampler on a GPU. Optional: without Triton, or where it fails its check, plain torch does all of it."""
