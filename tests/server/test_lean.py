"""The lean forward in 16 bits. That it gives a model's own logits is seen at every load, and in test_families."""

import pytest
import torch

from server.engine.linear import product_dtype
from server.engine.loading import ModelSource, load
from server.engine.model import Piece


@pytest.mark.skipif(
    product_dtype(torch.bfloat16) == torch.bfloat16, reason="products of bfloat16 take and give what is rounded to it"
)
def test_where_products_are_of_float32_keys_and_values_alone_are_rounded_to_bfloat16():
    logits = {}
    with torch.inference_mode():
        for dtype in ("float32", "bfloat16"):
            model, _ = load(ModelSource(dtype=dtype))  # of the same weights, which bfloat16 holds
            cache = model.cache(24)
            none = torch.zeros(0, dtype=torch.int64)
            logits[dtype] = model.forward([Piece(cache, 0, model.probe().tolist(), 24)], none)
            assert {keys.dtype for keys, _ in cache.get(0, 24).values()} == {getattr(torch, dtype)}
    assert logits["bfloat16"].dtype == torch.float32
    difference = (logits["bfloat16"] - logits["float32"]).norm() / logits["float32"].norm()
    assert 0 < difference < 5e-3
