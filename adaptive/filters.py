"""The filters of a request, and `CHAIN`, which holds those of a step in their order, for batches in which every row has
settings of its own. With equal settings the results are those of Hugging Face `generate`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from adaptive.kept import (
    epsilon_kept,
    eta_kept,
    min_p_kept,
    p_less_kept,
    top_h_hugging_face_kept,
    top_h_kept,
    top_k_kept,
    top_n_sigma_kept,
    typical_p_kept,
    xtc_kept,
)
from adaptive.nucleus import top_p_kept
from adaptive.parameters import Declared, choice, flag, number, positive

TOP_H_VARIANTS = ("paper", "hugging_face")
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
