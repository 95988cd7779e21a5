"""Filters one at a time, and temperature: logits `[..., vocab]` in, what is removed set to -inf.

Values are numbers or tensors `[...]`, one a row.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from adaptive.entropy import upcast
from adaptive.filters import TOP_H_VARIANTS
from adaptive.kept import (
    epsilon_kept,
    eta_kept,
    min_p_floor,
    p_less_kept,
    top_h_hugging_face_kept,
    top_h_kept,
    top_k_floor,
    top_n_sigma_kept,
    typical_p_kept,
    xtc_kept,
)
from adaptive.nucleus import top_p_kept
from adaptive.parameters import ParameterError


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


def _checked(name: str, value: float | str | Tensor, allowed: str, fits: bool | Tensor) -> None:
    if not (bool(fits.all()) if isinstance(fits, Tensor) else fits):
        raise ParameterError([(name, f"must be {allowed}, not {value}")])


def _column(value: float | Tensor, logits: Tensor, dtype: torch.dtype) -> Tensor:
    """One value a row, `[..., 1]`."""
    return torch.as_tensor(value, dtype=dtype, device=logits.device).expand(logits.shape[:-1]).unsqueeze(-1)
