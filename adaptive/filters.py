"""Filters: which tokens may be drawn. Each takes logits `[..., vocab]` and sets what it removes to -inf.

A filter works on the distribution `softmax(logits)` and always keeps its most likely token. The arguments may be
numbers or tensors `[...]`, one a row. With equal settings the results are those of Hugging Face `generate`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from adaptive.entropy import row_sum, upcast
from adaptive.parameters import Declared, ParameterError, number

CANDIDATES = 1024
"""How many of the most likely tokens are looked at first for top-p; rows that need more are sorted whole."""


@dataclass(frozen=True, slots=True)
class Filters(Declared):
    """The filters of one request. None, top_p 1 and min_p 0 mean off."""

    top_k: int | None = number(None, "Keep the k most likely tokens.", minimum=1, integer=True)
    top_p: float | None = number(
        None,
        "Keep the smallest set of most likely tokens with this mass.",
        minimum=0.0,
        minimum_excluded=True,
        maximum=1.0,
    )
    min_p: float | None = number(
        None, "Keep tokens at least this many times as likely as the most likely one.", minimum=0.0, maximum=1.0
    )


def _checked(name: str, value: float | Tensor, allowed: str, fits: bool | Tensor) -> None:
    if not (bool(fits.all()) if isinstance(fits, Tensor) else fits):
        raise ParameterError([(name, f"must be {allowed}, not {value}")])


def _column(value: float | Tensor, logits: Tensor, dtype: torch.dtype) -> Tensor:
    """One value a row, `[..., 1]`."""
    return torch.as_tensor(value, dtype=dtype, device=logits.device).expand(logits.shape[:-1]).unsqueeze(-1)


def apply_temperature(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """`logits / temperature`. ValueError unless the temperature is finite and above 0; for 0 choose greedy."""
    t = torch.as_tensor(temperature)
    _checked("temperature", temperature, "a finite number above 0 (for 0 choose greedy)", (t > 0) & t.isfinite())
    return upcast(logits) / _column(temperature, logits, torch.float32)


def apply_top_k(logits: Tensor, k: int | Tensor) -> Tensor:
    """Keep the k most likely tokens, and all that tie with the last of them. ValueError if k < 1."""
    columns = torch.as_tensor(k)
    whole = not columns.is_floating_point() and columns.dtype != torch.bool
    _checked("top_k", k, "a whole number of at least 1", (columns >= 1) if whole else False)
    z = upcast(logits)
    count = min(int(columns.max()), z.shape[-1])
    ranked = z.topk(count, -1).values
    return z.masked_fill(z < top_k_floor(ranked, _column(k, z, torch.int64)), -torch.inf)


def apply_top_p(logits: Tensor, p: float | Tensor) -> Tensor:
    """Keep the smallest set of most likely tokens whose mass is at least p. ValueError unless 0 < p <= 1.

    Among equally likely tokens at the edge of the set the higher ids stay, as in Hugging Face.
    """
    columns = torch.as_tensor(p)
    _checked("top_p", p, "above 0 and at most 1", (columns > 0) & (columns <= 1))
    z = upcast(logits)
    rows = z.reshape(-1, z.shape[-1])
    shifted = rows - rows.amax(-1, keepdim=True)
    share = _column(p, z, torch.float64).reshape(-1, 1)
    return z.masked_fill(~top_p_kept(shifted, share, CANDIDATES).view_as(z), -torch.inf)


def apply_min_p(logits: Tensor, min_p: float | Tensor) -> Tensor:
    """Keep tokens at least `min_p` times as likely as the most likely one. ValueError unless 0 <= min_p <= 1."""
    columns = torch.as_tensor(min_p)
    _checked("min_p", min_p, "from 0 to 1", (columns >= 0) & (columns <= 1))
    z = upcast(logits)
    return z.masked_fill(z - z.amax(-1, keepdim=True) < min_p_floor(_column(min_p, z, z.dtype)), -torch.inf)


def top_k_floor(ranked: Tensor, k: Tensor) -> Tensor:
    """The k-th largest logit, `[..., 1]`. ranked: the largest logits in falling order, `[..., n]`; k: `[..., 1]`."""
    return ranked.gather(-1, k.clamp(max=ranked.shape[-1]) - 1)


def min_p_floor(min_p: Tensor) -> Tensor:
    """The lowest logit, relative to the largest, that min_p keeps; of the shape of min_p."""
    return min_p.clamp(max=1.0).log()


def top_p_kept(shifted: Tensor, p: Tensor, candidates: int) -> Tensor:
    """Which tokens top-p keeps, bool `[rows, vocab]`.

    shifted: logits less their maximum, `[rows, vocab]`; p: `[rows, 1]`, 1 or more keeps all.
    The `candidates` largest logits are looked at first; a row whose set is larger is sorted whole, so that the
    answer is exact. On a GPU all rows are sorted at once instead: to ask which rows need it would stall the step.
    """
    vocab = shifted.shape[-1]
    mass = row_sum(shifted.exp()).double()[:, None] * p
    if shifted.device.type != "cpu" or candidates >= vocab:
        floor, spare, _ = _edge(shifted.sort(-1, descending=True).values, mass, whole=True)
    else:
        floor, spare, short = _edge(shifted.topk(candidates, -1).values, mass, whole=False)
        short = short & (p[:, 0] < 1.0)
        if bool(short.any()):
            rows = short.nonzero()[:, 0]
            floor[rows], spare[rows], _ = _edge(shifted[rows].sort(-1, descending=True).values, mass[rows], whole=True)
    kept = (shifted >= floor) | (p >= 1.0)
    spare = spare * (p < 1.0)
    if shifted.device.type != "cpu" or bool((spare > 0).any()):
        # The edge runs through a group of equally likely tokens: drop as many of it as are spare, lowest ids first.
        tied = shifted == floor
        kept &= ~(tied & (tied.cumsum(-1) <= spare))
    return kept


def _edge(ranked: Tensor, mass: Tensor, whole: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Where the smallest set with `mass` ends, given logits in falling order `[rows, n]`.

    Returns (lowest logit of the set `[rows, 1]`, how many tokens that tie with it are not in the set `[rows, 1]`,
    whether n tokens were too few to tell `[rows]`).
    """
    size = ranked.shape[-1]
    sums = ranked.double().exp().cumsum(-1)
    last = (sums < mass).sum(-1, keepdim=True)
    short = (last >= size)[:, 0]
    floor = ranked.gather(-1, last.clamp(max=size - 1))
    tied_in = last + 1 - (ranked > floor).sum(-1, keepdim=True)
    tied = (ranked == floor).sum(-1, keepdim=True)
    if not whole:  # ties may go on beyond what is looked at
        short = short | (ranked[:, -1:] == floor)[:, 0]
    return floor, (tied - tied_in).clamp(min=0), short
