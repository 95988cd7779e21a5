"""Memory for what a step forgets at once. Fresh memory costs more than most operations on it: the system clears it."""

import math
import threading

import torch
from torch import Tensor


class _Kept(threading.local):
    def __init__(self) -> None:
        self.buffers: dict[tuple[str, torch.dtype], Tensor] = {}


_kept = _Kept()


def scratch(name: str, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Memory of this thread with this name, on the device of `like` and of its dtype unless another is given.

    Its content is undefined, and lost at the next call with the same name. A GPU's allocator keeps memory by itself.
    """
    dtype = dtype or like.dtype
    if like.device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=like.device)
    size = math.prod(shape)
    buffer = _kept.buffers.get((name, dtype))
    if buffer is None or buffer.numel() < size:
        with torch.inference_mode(False):  # so that it can be used in and out of that mode
            buffer = _kept.buffers[name, dtype] = torch.empty(size, dtype=dtype)
    return buffer[:size].view(shape)
