"""The model behind one verb: forward a packed step, get the logits of the rows that draw."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from server.engine.attention import NAME, Packed, Segment
from server.engine.compiled import CompiledLean
from server.engine.kv_cache import RowCache
from server.engine.lean import Lean
from server.engine.packed import padded

if TYPE_CHECKING:
    from server.engine.graphs import Graphs

_PROBE_LENGTH = 24


@dataclass(frozen=True, slots=True)
class Piece:
    """The next tokens of one generation: `tokens` at position `start` and on.

    tokens: ids on the host, or None for the one token that is on the device already. draws: of how many of its last
    tokens the logits are wanted, skipping the last `skips`.
    """

    cache: RowCache
    start: int
    tokens: Sequence[int] | None
    draws: int = 1
    skips: int = 0


class Model:
    """A causal language model of transformers, unmodified but for its attention and, on the CPU, its linear layers; or
    its lean form, if it has one.

    graphs: its decode steps as CUDA graphs, where there are any.
    """

    def __init__(self, name: str, network: Any, context_length: int) -> None:
        self.name = name
        self.network = network
        self.lean: Lean | CompiledLean | None = None
        self.context_length = context_length
        self.graphs: Graphs | None = None
        self.bytes_per_token = 0
        config = network.config
        self.architecture: str = config.model_type
        self.parameters = int(network.num_parameters())
        self.dtype = str(network.dtype).removeprefix("torch.")
        self.device: torch.device = network.device
        self.vocab_size = int(network.get_output_embeddings().weight.shape[0])
        eos = network.generation_config.eos_token_id
        eos = getattr(config.get_text_config(), "eos_token_id", None) if eos is None else eos
        self.eos = frozenset(eos if isinstance(eos, (list, tuple)) else [] if eos is None else [eos])

    def forward(self, pieces: Sequence[Piece], last_tokens: Tensor) -> Tensor:
        """Logits `[draws of all pieces, vocab]`, computed side by side in one sequence.

        last_tokens: int64, the tokens on the device for the pieces without tokens, which come first.
        """
        if self.graphs is not None and 0 < len(last_tokens) <= self.graphs.most:
            return self.graphs.forward(pieces, last_tokens)
        positions: list[int] = []
        fresh: list[int] = []
        segments: list[Segment] = []
        drawing: list[int] = []
        for piece in pieces:
            length = 1 if piece.tokens is None else len(piece.tokens)
            segments.append(Segment(piece.cache, len(positions), piece.start, length))
            positions.extend(range(piece.start, piece.start + length))
            fresh.extend(piece.tokens or ())
            end = len(positions) - piece.skips
            drawing.extend(range(end - piece.draws, end))
        rows = len(drawing)
        spare = 0
        if self.bits_vary:
            spare = padded(len(positions)) - len(positions)
            drawing += [0] * (padded(rows) - rows) if rows else []
        prompt = torch.tensor(fresh + [0] * spare, dtype=torch.int64, device=self.device)
        tokens = torch.cat([last_tokens, prompt])
        places = torch.tensor(positions + [0] * spare, device=self.device)
        keep = torch.tensor(drawing, dtype=torch.int64, device=self.device)
        return self._logits(tokens, places, Packed(segments, spare), keep)[:rows]

    def _logits(self, tokens: Tensor, positions: Tensor, packed: Packed, drawing: Tensor) -> Tensor:
        if self.lean is not None:
            return self.lean(tokens, positions, packed, drawing)
        out = self.network(
            input_ids=tokens[None],
            position_ids=positions[None],
            use_cache=False,
            logits_to_keep=drawing,
            packed=packed,
        )
        return out.logits[0]

    def cache(self, capacity: int) -> RowCache:
        """Memory for the keys and values of one generation of so many tokens."""
        return RowCache(capacity, None if self.lean is None else self.lean.layout)

    def adopt(self) -> None:
        """Put the engine's attention into the network."""
        self.network.set_attn_implementation(NAME)
        if self.network.config.get_text_config()._attn_implementation != NAME:
            raise ValueError("its attention cannot be replaced")

    def reference(self) -> Tensor:
        """Logits `[tokens, vocab]` of a probe as transformers computes them, to compare with `check`."""
        return self.network(input_ids=self.probe()[None], use_cache=False).logits[0].float()

    def check(self, expected: Tensor) -> None:
        """Compute the probe in the engine's way, in two pieces and then token by token, beside another row.

        ValueError if the logits are not the model's own: better no answer than wrong ones. Measures KV memory too.
        """
        probe = self.probe().tolist()
        cache, other = self.cache(len(probe)), self.cache(len(probe))
        none = torch.zeros(0, dtype=torch.int64, device=self.device)
        third = len(probe) // 3
        got = [
            self.forward([Piece(other, 0, probe[:5], 0), Piece(cache, 0, probe[:third])], none),
            self.forward([Piece(cache, third, probe[third : 2 * third])], none),
        ]
        got += [self.forward([Piece(cache, i, probe[i : i + 1])], none) for i in range(2 * third, len(probe))]
        rows = [third - 1, *range(2 * third - 1, len(probe))]
        difference = (torch.cat(got).float() - expected[rows]).norm() / expected[rows].norm()
        if not difference < self.tolerance:
            raise ValueError(
                f"the engine's logits differ from the model's own by {float(difference):.2g} of their norm"
            )
        self.bytes_per_token = cache.bytes_per_token

    @property
    def bits_vary(self) -> bool:
        """Whether a token's bits depend on how many are computed with it: by torch on the CPU, but not by machine code.
        On a GPU no bits are promised."""
        return self.device.type == "cpu" and not isinstance(self.lean, CompiledLean)

    @property
    def tolerance(self) -> float:
        """By how much of their norm logits that were computed in two ways may differ."""
        return 1e-3 if self.dtype == "float32" else 0.1

    def probe(self) -> Tensor:
        """A few tokens to try it with, int64 `[tokens]`."""
        generator = torch.Generator().manual_seed(0)
        length = min(_PROBE_LENGTH, self.context_length)
        return torch.randint(0, self.vocab_size, (length,), generator=generator).to(self.device)
