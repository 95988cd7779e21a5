"""Functions of tensors as machine code for this processor, by torch's own compiler. It needs a C++ compiler."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_OPTIONS = {
    "cpp_wrapper": True,  # a call costs a third of one that Python leads through the kernels
    # What is used several times is computed several times, not stored in whole rows.
    "realize_reads_threshold": 64,
    "realize_opcount_threshold": 256,
}

Machine = Callable[..., Sequence[Tensor]]
"""A compiled function: contiguous tensors in, tensors out."""


class CannotCompile(Exception):
    """There is no compiler, or it failed; the message says what."""


def compiled(
    function: Callable[..., tuple[Tensor, ...]], *arguments: tuple[torch.dtype, Sequence[int | str]]
) -> Machine:
    """`function` for the CPU, in inference mode. Takes seconds; less where it was done before, as torch keeps on disk
    what it has compiled. CannotCompile if it cannot be done.

    arguments: the type and the shape of each. A size that has a name may be any from 1 on, the same wherever it has
    that name.
    """
    fixed = torch.export.Dim.STATIC
    names = sorted({size for _, shape in arguments for size in shape if isinstance(size, str)})
    dims = {name: torch.export.Dim(name, min=1) for name in names}
    # No two of the same length, and none of 1, which the compiler would take for the only one.
    lengths = {name: 3 + 2 * place for place, name in enumerate(names)}
    examples: list[Any] = [
        torch.zeros([lengths[size] if isinstance(size, str) else size for size in shape], dtype=dtype)
        for dtype, shape in arguments
    ]
    shapes = tuple(tuple(dims[s] if isinstance(s, str) else fixed for s in shape) for _, shape in arguments)
    try:
        # Imported here: it takes seconds, and torch promises nothing of it.
        import torch._inductor.config as inductor
        from torch._inductor import standalone_compile

        with warnings.catch_warnings(), inductor.patch(compile_threads=1):
            warnings.simplefilter("ignore")
            graph = torch.export.export(_Module(function), tuple(examples), dynamic_shapes=(shapes,))
            return standalone_compile(graph.graph_module, examples, options={"config_patches": _OPTIONS})
    except Exception as fault:  # the compiler raises many kinds, or has gone
        raise CannotCompile(f"{type(fault).__name__}: {fault}") from fault


class _Module(nn.Module):
    def __init__(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        return self._function(*arguments)
