"""Filters: which tokens may be drawn. Each takes logits `[..., vocab]` and sets what it removes to -inf.

A filter works on the distribution `softmax(logits)` and always keeps a token. The `apply_` functions take numbers or
tensors `[...]`, one a row. With equal settings the results are those of Hugging Face `generate`. `CHAIN` holds the
filters of a step in their order, for batches in which every row has settings of its own.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from adaptive.entropy import log_probabilities, moments, row_sum, upcast
from adaptive.nucleus import top_p_kept
from adaptive.parameters import Declared, ParameterError, choice, flag, number, positive

TOP_H_VARIANTS = ("paper", "hugging_face")
_TOP_H_CANDIDATES = 100
_XTC = 0.1


@dataclass(frozen=True, slots=True)
class Filters(Declared):
    """The filters of one request. None, and the value that keeps everything, mean off."""

    top_k: int | None = number(None, "Keep the k most likely tokens.", minimum=1, integer=True)
    top_p: float | None = positive(None, "Keep the smallest set of most likely tokens with this mass.", maximum=1.0)
    min_p: float | None = number(
        None, "Keep tokens at least this many times as likely as the most likely one.", minimum=0.0, maximum=1.0
    )
    typical_p: float | None = positive(
        None, "Keep the smallest set with this mass of tokens whose surprisal is nearest the entropy.", maximum=1.0
    )
    epsilon_cutoff: float | None = number(
        None, "Keep tokens of at least this probability.", minimum=0.0, maximum=1.0, maximum_excluded=True
    )
    eta_cutoff: float | None = number(
        None,
        "Keep tokens of at least min(eta, sqrt(eta) exp(-entropy)) probability.",
        minimum=0.0,
        maximum=1.0,
        maximum_excluded=True,
    )
    top_n_sigma: float | None = positive(
        None, "Keep tokens whose logit is at least the largest less this many standard deviations."
    )
    top_h: float | None = positive(
        None, "Keep the most likely tokens while their entropy stays within this share of the whole.", maximum=1.0
    )
    top_h_variant: str | None = choice(None, "How top_h measures entropy; paper if unset.", TOP_H_VARIANTS)
    p_less: bool = flag("Keep tokens at least as likely as the sum of squared probabilities.")
    xtc_threshold: float | None = number(
        None, "Of the tokens of at least this probability xtc keeps the least likely; 0.1 if unset.",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    xtc_probability: float | None = number(None, "The chance that xtc acts at a step.", minimum=0.0, maximum=1.0)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.top_h_variant is not None and self.top_h is None:
            yield "top_h_variant", "must be unset without top_h"
        if self.xtc_threshold is not None and self.xtc_probability is None:
            yield "xtc_threshold", "must be unset without xtc_probability"


def _checked(name: str, value: float | str | Tensor, allowed: str, fits: bool | Tensor) -> None:
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

    Among equally likely tokens at the edge of the set the higher ids stay; Hugging Face leaves that to its sort.
    """
    columns = torch.as_tensor(p)
    _checked("top_p", p, "above 0 and at most 1", (columns > 0) & (columns <= 1))
    z = upcast(logits)
    rows = z.reshape(-1, z.shape[-1])
    shifted = rows - rows.amax(-1, keepdim=True)
    share = _column(p, z, torch.float64).reshape(-1, 1)
    return z.masked_fill(~top_p_kept(shifted, share).view_as(z), -torch.inf)


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


def apply_typical_p(logits: Tensor, mass: float | Tensor) -> Tensor:
    """Keep the smallest set with `mass` of the tokens whose surprisal is nearest to the entropy, and all that tie with
    its last. ValueError unless 0 < mass <= 1. Source: Meister et al. 2022, arXiv 2202.00666."""
    columns = torch.as_tensor(mass)
    _checked("typical_p", mass, "above 0 and at most 1", (columns > 0) & (columns <= 1))
    return _apply(typical_p_kept, logits, mass)


def apply_epsilon(logits: Tensor, epsilon: float | Tensor) -> Tensor:
    """Keep tokens of at least `epsilon` probability. ValueError unless 0 <= epsilon < 1. Source: arXiv 2210.15191."""
    columns = torch.as_tensor(epsilon)
    _checked("epsilon_cutoff", epsilon, "at least 0 and below 1", (columns >= 0) & (columns < 1))
    return _apply(epsilon_kept, logits, epsilon)


def apply_eta(logits: Tensor, eta: float | Tensor) -> Tensor:
    """Keep tokens of at least min(eta, sqrt(eta) exp(-entropy)) probability. ValueError unless 0 <= eta < 1.
    Source: Hewitt et al. 2022, arXiv 2210.15191, as Hugging Face reads it."""
    columns = torch.as_tensor(eta)
    _checked("eta_cutoff", eta, "at least 0 and below 1", (columns >= 0) & (columns < 1))
    return _apply(eta_kept, logits, eta)


def apply_top_n_sigma(logits: Tensor, n: float | Tensor) -> Tensor:
    """Keep tokens whose logit is at least the largest less n standard deviations of the finite logits (population).
    ValueError unless n > 0. Source: arXiv 2411.07641."""
    _checked("top_n_sigma", n, "above 0", torch.as_tensor(n) > 0)
    return _apply(top_n_sigma_kept, logits, n)


def apply_top_h(logits: Tensor, share: float | Tensor, variant: str = "paper") -> Tensor:
    """Keep the most likely tokens while their entropy stays within `share` of the whole. ValueError unless
    0 < share <= 1. Source: arXiv 2509.02510; variant "hugging_face" as the warper of that library has it."""
    columns = torch.as_tensor(share)
    _checked("top_h", share, "above 0 and at most 1", (columns > 0) & (columns <= 1))
    _checked("top_h_variant", variant, f"one of {', '.join(TOP_H_VARIANTS)}", variant in TOP_H_VARIANTS)
    return _apply(top_h_kept if variant == "paper" else top_h_hugging_face_kept, logits, share)


def apply_p_less(logits: Tensor) -> Tensor:
    """Keep tokens at least as likely as the sum of squared probabilities. Source: arXiv 2509.23234."""
    return _apply(lambda z, _: p_less_kept(z), logits, 0.0)


def apply_xtc(logits: Tensor, threshold: float | Tensor = 0.1) -> Tensor:
    """Drop the tokens of at least `threshold` probability but the least likely of them, if there are two or more.
    ValueError unless 0 <= threshold <= 1. Source: text-generation-webui. The dice are the caller's."""
    columns = torch.as_tensor(threshold)
    _checked("xtc_threshold", threshold, "from 0 to 1", (columns >= 0) & (columns <= 1))
    return _apply(xtc_kept, logits, threshold)


def _apply(kept: Callable[[Tensor, Tensor], Tensor], logits: Tensor, value: float | Tensor) -> Tensor:
    z = upcast(logits)
    rows = z.reshape(-1, z.shape[-1])
    mask = kept(rows, _column(value, z, torch.float64).reshape(-1, 1))
    return z.masked_fill(~mask.view_as(z), -torch.inf)


# The filters of a batch: logits `[rows, vocab]` and one value a row `[rows, 1]` to bool `[rows, vocab]`.


def top_k_kept(z: Tensor, k: Tensor, largest: int) -> Tensor:
    """Which tokens top-k keeps. k: whole numbers, NaN keeps all; largest: at least the largest of them."""
    floor = top_k_floor(z.topk(min(largest, z.shape[-1]), -1).values, k.nan_to_num(1.0).long().clamp(min=1))
    return (z >= floor) | k.isnan()


def min_p_kept(z: Tensor, min_p: Tensor) -> Tensor:
    """Which tokens min-p keeps."""
    return z - z.amax(-1, keepdim=True) >= min_p_floor(min_p).to(z.dtype)


def max_surprisal_kept(z: Tensor, most: Tensor) -> Tensor:
    """Tokens of at most this surprisal in nats, and the most likely."""
    s = log_probabilities(z)
    return (-s <= most) | (z == z.amax(-1, keepdim=True))


def typical_p_kept(z: Tensor, mass: Tensor) -> Tensor:
    """See apply_typical_p."""
    s = log_probabilities(z)
    h = moments(z)[0][..., None]
    distance, order = (-s - h).abs().sort(dim=-1, stable=True)
    sums = s.exp().gather(-1, order).double().cumsum(-1)
    last = (sums < mass).sum(-1, keepdim=True).clamp(max=z.shape[-1] - 1)
    return ((-s - h).abs() <= distance.gather(-1, last)) | (mass >= 1.0)


def epsilon_kept(z: Tensor, epsilon: Tensor) -> Tensor:
    """See apply_epsilon."""
    s = log_probabilities(z)
    return (s.exp() >= epsilon) | (z == z.amax(-1, keepdim=True))


def eta_kept(z: Tensor, eta: Tensor) -> Tensor:
    """See apply_eta."""
    h = moments(z)[0].double()[..., None]
    return epsilon_kept(z, torch.minimum(eta, eta.sqrt() * (-h).exp()))


def top_n_sigma_kept(z: Tensor, n: Tensor) -> Tensor:
    """See apply_top_n_sigma."""
    finite = z > -torch.inf
    count = finite.sum(-1, keepdim=True)
    shifted = z.double() - z.double().amax(-1, keepdim=True)  # float32 has no room for the squares of large logits
    mean = row_sum(shifted.masked_fill(~finite, 0.0))[..., None] / count
    variance = row_sum((shifted - mean).masked_fill(~finite, 0.0).square())[..., None] / count
    return shifted >= -n * variance.sqrt()


def p_less_kept(z: Tensor) -> Tensor:
    """See apply_p_less."""
    p = log_probabilities(z).exp()
    return (p >= row_sum(p.square())[..., None]) | (z == z.amax(-1, keepdim=True))


def top_h_kept(z: Tensor, share: Tensor) -> Tensor:
    """See apply_top_h. The entropy of a prefix of the sorted distribution grows with its length, so one count tells."""
    s, order = log_probabilities(z).double().sort(dim=-1, descending=True, stable=True)
    p = s.exp()
    mass = p.cumsum(-1)
    inside = mass.log() - (p * s).cumsum(-1) / mass
    count = (inside <= share * inside[..., -1:]).sum(-1, keepdim=True).clamp(min=1)
    return _prefix(order, count) | (share >= 1.0)


def top_h_hugging_face_kept(z: Tensor, share: Tensor) -> Tensor:
    """See apply_top_h. Hugging Face looks at the 100 most likely tokens only and does not renormalise their sums."""
    top, order = z.topk(min(_TOP_H_CANDIDATES, z.shape[-1]), -1)
    s = log_probabilities(top)
    inside = (-s.exp() * s).cumsum(-1)
    count = (inside <= share * row_sum(-s.exp() * s)[..., None]).sum(-1, keepdim=True).clamp(min=1)
    return torch.zeros_like(z, dtype=torch.bool).scatter(-1, order, _prefix_flags(order, count))


def xtc_kept(z: Tensor, threshold: Tensor) -> Tensor:
    """See apply_xtc."""
    p = log_probabilities(z).exp()
    likely = p >= threshold
    last = p.masked_fill(~likely, torch.inf).argmin(-1, keepdim=True)
    spared = (likely.sum(-1, keepdim=True) < 2) | (threshold > 0.5)  # two tokens above one half there cannot be
    return ~likely | torch.zeros_like(likely).scatter(-1, last, True) | spared


def _prefix(order: Tensor, count: Tensor) -> Tensor:
    """The first `count` `[rows, 1]` tokens of an order `[rows, vocab]`, as a mask."""
    flags = _prefix_flags(order, count)
    return torch.zeros_like(flags).scatter(-1, order, flags)


def _prefix_flags(order: Tensor, count: Tensor) -> Tensor:
    return torch.arange(order.shape[-1], device=order.device) < count


class Filter(NamedTuple):
    """A filter of the chain: when a request has it on, and what it keeps.

    kept: from logits `[rows, vocab]`, the columns `[rows, 1]` by name, NaN where unset, and the largest top_k.
    """

    name: str
    on: Callable[[Filters], bool]
    kept: Callable[[Tensor, dict[str, Tensor], int], Tensor]


def _below_one(value: float | None) -> bool:
    return value is not None and value < 1.0


CHAIN = (
    Filter("top_n_sigma", lambda f: f.top_n_sigma is not None, lambda z, c, _: top_n_sigma_kept(z, c["top_n_sigma"])),
    Filter("p_less", lambda f: f.p_less, lambda z, c, _: p_less_kept(z)),
    Filter(
        "top_h",
        lambda f: _below_one(f.top_h) and f.top_h_variant != "hugging_face",
        lambda z, c, _: top_h_kept(z, c["top_h"]),
    ),
    Filter(
        "top_h of Hugging Face",
        lambda f: f.top_h is not None and f.top_h_variant == "hugging_face",
        lambda z, c, _: top_h_hugging_face_kept(z, c["top_h"]),
    ),
    Filter("top_k", lambda f: f.top_k is not None, lambda z, c, most: top_k_kept(z, c["top_k"], most)),
    Filter(
        "top_p",
        lambda f: _below_one(f.top_p),
        lambda z, c, _: top_p_kept(z, c["top_p"].nan_to_num(1.0)),
    ),
    Filter("min_p", lambda f: bool(f.min_p), lambda z, c, _: min_p_kept(z, c["min_p"].nan_to_num(0.0))),
    Filter("typical_p", lambda f: _below_one(f.typical_p), lambda z, c, _: typical_p_kept(z, c["typical_p"])),
    Filter("epsilon_cutoff", lambda f: bool(f.epsilon_cutoff), lambda z, c, _: epsilon_kept(z, c["epsilon_cutoff"])),
    Filter("eta_cutoff", lambda f: bool(f.eta_cutoff), lambda z, c, _: eta_kept(z, c["eta_cutoff"])),
    Filter(
        "xtc",
        lambda f: bool(f.xtc_probability),
        lambda z, c, _: xtc_kept(z, c["xtc_threshold"].nan_to_num(_XTC)) | (c["dice"] >= c["xtc_probability"]),
    ),
)
"""The filters of a step, in order. dice: a number in [0, 1) a row, for xtc."""


FIRST_LEADING, LAST_LEADING = (
    next(place for place, one in enumerate(CHAIN) if one.name == name) for name in ("top_k", "min_p")
)
"""Places of the first and the last of the filters that keep the most likely tokens by rank, mass or ratio alone."""


def chain(z: Tensor, active: Iterable[tuple[int, Tensor | None]], columns: dict[str, Tensor], largest_k: int) -> Tensor:
    """Logits `[rows, vocab]` with -inf for what filters of `CHAIN` remove.

    active: the place of each filter, and the rows that use it; None means all. columns: the filters' parameters by
    name, and "dice", `[rows]`. largest_k: at least the largest top_k.
    """
    for place, index in active:
        part = z if index is None else z[index]
        chosen = {name: (column if index is None else column[index])[:, None] for name, column in columns.items()}
        part = part.masked_fill(~CHAIN[place].kept(part, chosen, largest_k), -torch.inf)
        z = part if index is None else z.index_copy(0, index, part)
    return z
