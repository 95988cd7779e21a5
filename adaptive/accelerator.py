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
_compiled: list[ModuleType] = []
"""`adaptive.cpu.fused`, once it is compiled."""


def kernels(device: torch.device) -> ModuleType | None:
    """`adaptive.gpu.fused` if it works on this device, `adaptive.cpu.fused` if it was compiled; None leaves everything
    to plain torch, as on a GPU that is not the thread's current one, which kernels would not find."""
    if device.type == "cpu":
        return _compiled[0] if _compiled else None
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


def compile_sampler() -> None:
    """Compile the sampler for float32 logits on the CPU, for this process.

    It takes some seconds where it was not done before, as torch keeps on disk what it has compiled. Figures have other
    last bits after it, so it belongs before the first step. CannotCompile if there is no C++ compiler or it fails;
    nothing has changed then.
    """
    from adaptive.cpu import fused

    fused.library()
    _compiled[:] = [fused]


def replayed_step(device: torch.device) -> "Callable[..., tuple[Tensor, Report]] | None":
    """`adaptive.step` for one batch after another, which replays what stays the same; None where nothing is gained."""
    if device.type == "cpu" or kernels(device) is None:
        return None
    from adaptive.gpu.replay import Replay

    return Replay().step
