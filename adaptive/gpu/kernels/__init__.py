"""Triton kernels of the sampler: a row's logits are read a few times, from the second time on out of a GPU's L2 cache.

Nothing is sorted. A filter that keeps the most likely tokens is one floor, searched for over the bits of the logits.
Mostly it lies among the tokens of a few blocks, those with the largest maxima; a row of which that cannot be told is
searched whole, by the same code. Numbers of a token and their sums over a part of a row are float32, sums of parts
float64, in the order of the parts: a row's result does not depend on how many programs work on it.

Where programs of one row need each other's results, the one that comes last goes on alone (`survey.last_of`), or all
wait (`leading._meet`), for which they have to run at once. Triton's interpreter runs programs one after another, so
waiting is tested on a GPU alone, by `adaptive.gpu.fused.check`. Numbers that change from batch to batch are not
specialized: a kernel that compiled anew in the midst of serving would take seconds.

A key is a logit as an integer of the same order. `adaptive.gpu.fused` makes the tensors, and calls all of this.
"""
