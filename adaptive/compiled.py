"""Functions of tensors as machine code for this processor, by torch's own compiler. It needs a C++ compiler.

Plain torch reads and writes whole rows once an operation, and an operation on a few numbers takes as long to call as
thousands to compute: compiled, a function is one visit, and one call.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_OPTIONS = {
    "cpp_wrapper": True,  # a call costs a third of one that Python leads through the kernels
    # What is used several times is computed several times, not stored in whole rows.
    "realize_reads_threshold": 64,
    "realize_opcount_threshold": 256,
}

VOCABULARY = "vocab"
"""The size that a function is compiled for, where a shape has it: then the last of the first argument's."""

Machine = Callable[..., Sequence[Tensor]]
"""A compiled function: contiguous tensors in, tensors out."""


class CannotCompile(Exception):
    """There is no compiler, or it failed; the message says what."""


class Argument(NamedTuple):
    """A tensor that a function takes. shape: a size that has a name may be any from 1 on, the same wherever it has that
    name. absent: what a tensor that is not given holds; None if it has to be given."""

    dtype: torch.dtype
    shape: tuple[int | str, ...]
    absent: float | None = None


NUMBERS = Argument(torch.float64, ("rows",))
FLAGS = Argument(torch.bool, ("rows",))


class Compilable:
    """A pure function of tensors on the CPU that `compile_for` compiles, of fixed arguments, all of them by place.

    Called, it is the compiled function where that has been made and the arguments are those that were declared, else
    the plain one. The two may differ in the last bits, so which of them it is must not depend on a row's company.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], arguments: tuple[Argument, ...]) -> None:
        self.__doc__ = function.__doc__
        self._function, self._arguments = function, arguments
        self._of_vocabulary = any(VOCABULARY in argument.shape for argument in arguments)
        _compilables.append(self)

    def machine(self, vocab: int = 0) -> Machine | None:
        """The compiled function, for a size of vocabulary if it is made for one; None if it has not been compiled."""
        return _machines.get((self, vocab))

    def __call__(self, *given: Tensor | None) -> Sequence[Tensor]:
        first = given[0]
        machine = self.machine(first.shape[-1] if self._of_vocabulary and first is not None else 0)
        if machine is None or first is None or not _fit(first, given, self._arguments):
            return self._function(*given)
        return machine(*map(_filled, given, self._arguments, [first] * len(given)))

    def compile(self, vocab: int) -> dict[tuple["Compilable", int], Machine]:
        """It for a vocabulary, as `_machines` has it, unless it is there already."""
        key = (self, vocab if self._of_vocabulary else 0)
        if key in _machines:
            return {}
        threads = {} if self._of_vocabulary else {"cpp.threads": 1}  # it would take longer to wake another
        return {key: _compiled(self._function, self._arguments, vocab, threads)}


_compilables: list[Compilable] = []
_machines: dict[tuple[Compilable, int], Machine] = {}
"""By size of vocabulary, 0 for any. They are never taken away, as the last bits of a row hang on them."""


def compilable(*arguments: Argument) -> Callable[[Callable[..., tuple[Tensor, ...]]], Compilable]:
    """Declare what a function takes, and make it `Compilable`."""
    return lambda function: Compilable(function, arguments)


def compile_for(vocab: int) -> None:
    """Compile the sampler for so many float32 logits a row on the CPU, for this process.

    It takes a minute or so; seconds where it was done before, as torch keeps on disk what it has compiled. Figures have
    other last bits after it, so it belongs before the first step. CannotCompile if there is no C++ compiler or it
    fails; nothing has changed then.
    """
    made: dict[tuple[Compilable, int], Machine] = {}
    for one in _compilables:
        made |= one.compile(vocab)
    _machines.update(made)


def _fit(first: Tensor, given: Sequence[Tensor | None], arguments: Sequence[Argument]) -> bool:
    """Whether these are such arguments as they may differ: the device of all, the type and the shape of the first, and
    which of them are there."""
    wish = arguments[0]
    if first.device.type != "cpu" or first.dtype != wish.dtype or first.dim() != len(wish.shape):
        return False
    if any(isinstance(there, int) and size != there for size, there in zip(first.shape, wish.shape, strict=True)):
        return False
    return all(one is not None or argument.absent is not None for one, argument in zip(given, arguments, strict=True))


def _filled(given: Tensor | None, argument: Argument, first: Tensor) -> Tensor:
    """The argument as the machine takes it. first: of those that are given, with a row for each of its rows."""
    return _absent(argument, len(first)) if given is None else given.contiguous()


@lru_cache(256)
def _absent(argument: Argument, rows: int) -> Tensor:
    assert argument.absent is not None  # or it would not fit
    shape = [size if isinstance(size, int) else rows for size in argument.shape]
    return torch.full(shape, argument.absent, dtype=argument.dtype)


def _compiled(
    function: Callable[..., tuple[Tensor, ...]], arguments: Sequence[Argument], vocab: int, options: dict[str, Any]
) -> Machine:
    """`function` for the CPU, in inference mode. CannotCompile if it cannot be done."""
    fixed = torch.export.Dim.STATIC
    sizes = [tuple(vocab if size == VOCABULARY else size for size in argument.shape) for argument in arguments]
    names = sorted({size for shape in sizes for size in shape if isinstance(size, str)})
    dims = {name: torch.export.Dim(name, min=1) for name in names}
    # No two of the same length, and none of 1, which the compiler would take for the only one.
    lengths = {name: 3 + 2 * place for place, name in enumerate(names)}
    examples: list[Any] = [
        torch.zeros([lengths[size] if isinstance(size, str) else size for size in shape], dtype=argument.dtype)
        for argument, shape in zip(arguments, sizes, strict=True)
    ]
    shapes = tuple(tuple(dims[s] if isinstance(s, str) else fixed for s in shape) for shape in sizes)
    try:
        # Imported here: it takes seconds, and torch promises nothing of it.
        import torch._inductor.config as inductor
        from torch._inductor import standalone_compile

        with warnings.catch_warnings(), inductor.patch(compile_threads=1):
            warnings.simplefilter("ignore")
            graph = torch.export.export(_Module(function), tuple(examples), dynamic_shapes=(shapes,))
            return standalone_compile(graph.graph_module, examples, options={"config_patches": _OPTIONS | options})
    except Exception as fault:  # the compiler raises many kinds, or has gone
        raise CannotCompile(f"{type(fault).__name__}: {fault}") from fault


class _Module(nn.Module):
    def __init__(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        return self._function(*arguments)
