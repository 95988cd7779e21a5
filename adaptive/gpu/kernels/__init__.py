"""Triton kernels of the sampler: a row's logits are read a few times, from the second time on out of a GPU's L2 cache.

Nothing is sorted. A filter that keeps the most likely tokens is one floor, searched for over the bits of the logits.
Mostly it lies among the tokens of a few blocks, those with the largest maxima; a row of which that cannot be told is
searched whole, by the same code. Numbers of a token are float32, sums of them float64.

A key is a logit as an integer of the same order. `adaptive.gpu.fused` makes the tensors, and calls all of this.
"""
