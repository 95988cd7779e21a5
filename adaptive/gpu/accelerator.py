"""Whether the sampler has kernels for a device: looked at once, tried against plain torch, and said in the log."""

import logging
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from adaptive.info import Report

_log = logging.getLogger(__name__)


def kernels(device: torch.device) -> ModuleType | None:
    """`adaptive.gpu.fused` if it works on this device; None leaves everything to plain torch, as always on the CPU, and
    on a GPU that is not the thread's current one, which kernels would not find."""
    if device.type != "cuda" or (device.index is not None and device.index != torch.cuda.current_device()):
        return None
    return _checked(device)


@cache
def _checked(device: torch.device) -> ModuleType | None:
    try:
        from adaptive.gpu import fused  # Triton is not everywhere

        fused.check(device)
    except Exception as fault:
        _log.warning("the sampler goes without kernels on %s: %s: %s", device, type(fault).__name__, fault)
        return None
    return fused


def replayed_step(device: torch.device) -> "Callable[..., tuple[Tensor, Report]] | None":
    """`adaptive.step` for one batch after another, which replays what stays the same; None where nothing is gained."""
    if kernels(device) is None:
        return None
    from adaptive.gpu.replay import Replay

    return Replay().step
