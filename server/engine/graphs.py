"""Decode steps as CUDA graphs: one launch in place of a thousand, over memory that stays where it is.

A graph is captured once for each of a few numbers of rows. What differs from step to step, the rows' tokens, places and
KV memory, lies in tensors that it reads; rows that nobody needs compute something in memory of their own.
"""

import logging
import weakref
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from server.engine.attention import Packed
from server.engine.decode import Table
from server.engine.fused import Fused, fusible
from server.engine.kv_cache import RowCache
from server.engine.model import Model, Piece

SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of rows that have a graph."""
Run = Callable[[], Tensor]
_log = logging.getLogger(__name__)


def build(model: Model) -> "Graphs | None":
    """Graphs of a model on a GPU, seen to give what it gives without. None if they cannot be had or are wrong; then the
    log says why, and decode steps go the way of all others."""
    graphs = None
    if fusible(model.network):
        graphs = _checked(model, lambda: Fused(model.network, model.context_length), "fused kernels")
    return graphs or _checked(model, lambda: None, "CUDA graphs")


def _checked(model: Model, way: Callable[[], Fused | None], what: str) -> "Graphs | None":
    try:
        graphs = Graphs(model, Recorder(), SIZES, way())
        graphs.check()
    except Exception as fault:  # capture meets whatever a model does, and each of it means that it cannot be captured
        _log.warning("decode steps go without %s: %s: %s", what, type(fault).__name__, fault)
        return None
    return graphs


class Recorder:
    """Turns computations into CUDA graphs that share the memory of what they compute in between."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Run) -> Run:
        """A function that does again what `run` did, on the same memory."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # compiles kernels and fills caches, which a capture must not meet
            for _ in range(2):
                run()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            out = run()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay


class Graphs:
    """The decode steps of a model. record: as `Recorder`. way: in place of the model's own forward."""

    def __init__(
        self, model: Model, record: Callable[[Run], Run], sizes: Sequence[int], way: Fused | None = None
    ) -> None:
        self.most = max(sizes)
        self._model, self._way = model, way
        self._spare = model.cache(1)
        nothing = torch.zeros(0, dtype=torch.int64, device=model.device)
        model.forward([Piece(self._spare, 0, (0,))], nothing)
        self._tokens = torch.zeros(self.most, dtype=torch.int64, device=model.device)
        self._table = Table.empty(len(self._spare.addresses), self.most, model.device)
        self._expected: list[tuple[weakref.ref[RowCache], int]] = []
        self._fill([], [])
        # The largest first: the others find room in its memory.
        self._runs = {size: record(partial(self._run, size)) for size in sorted(sizes, reverse=True)}

    def forward(self, pieces: Sequence[Piece], last_tokens: Tensor) -> Tensor:
        """As `Model.forward`; the result may be overwritten by the next call. The rows that decode, which come first,
        are a graph; what there is besides is computed after them."""
        count = len(last_tokens)
        self._place([piece.cache for piece in pieces[:count]], [piece.start for piece in pieces[:count]])
        self._tokens[:count].copy_(last_tokens)
        logits = self._runs[min(size for size in self._runs if size >= count)]()[:count]
        if len(pieces) == count:
            return logits
        return torch.cat([logits, self._model.forward(pieces[count:], last_tokens[:0])])

    def _run(self, size: int) -> Tensor:
        """The step of `size` rows, all of whose tensors are where they were at the capture."""
        table = self._table.first(size)
        if self._way is not None:
            logits = self._way.forward(self._tokens[:size], table)
        else:
            out = self._model.network(
                input_ids=self._tokens[None, :size],
                position_ids=table.positions[None],
                use_cache=False,
                packed=Packed([], table=table),
            )
            logits = out.logits[0]
        table.advance()
        return logits

    def _place(self, caches: Sequence[RowCache], starts: Sequence[int]) -> None:
        """See that the table has these rows. It goes on by itself, without the host, while nobody joins or leaves."""
        same = len(caches) == len(self._expected) and all(
            known() is cache and expected == start
            for (known, expected), cache, start in zip(self._expected, caches, starts, strict=True)
        )
        if not same:
            self._fill(caches, starts)
        self._expected = [(weakref.ref(cache), start + 1) for cache, start in zip(caches, starts, strict=True)]

    def _fill(self, caches: Sequence[RowCache], starts: Sequence[int]) -> None:
        idle = self.most - len(caches)
        self._table.fill([*caches, *[self._spare] * idle], [*starts, *[0] * idle], len(caches))

    def check(self) -> None:
        """Compute a few steps of rows of different length in both ways. ArithmeticError if they differ."""
        probe = self._model.probe().tolist()
        caches = [self._model.cache(len(probe)), self._model.cache(len(probe))]
        starts = [len(probe) // 4, len(probe) - 2]
        nothing = torch.zeros(0, dtype=torch.int64, device=self._model.device)
        for cache, start in zip(caches, starts, strict=True):
            self._model.forward([Piece(cache, 0, probe[:start], 0)], nothing)
        for step in range(2):
            tokens = [probe[start + step] for start in starts]
            pieces = [Piece(cache, start + step, None) for cache, start in zip(caches, starts, strict=True)]
            plain = [Piece(piece.cache, piece.start, (token,)) for piece, token in zip(pieces, tokens, strict=True)]
            expected = self._model.forward(plain, nothing).float()
            got = self.forward(pieces, torch.tensor(tokens, device=self._model.device)).float()
            difference = float((got - expected).norm() / expected.norm())
            if not difference < self._model.tolerance:
                raise ArithmeticError(f"their logits differ from the plain way's by {difference:.2g} of their norm")
