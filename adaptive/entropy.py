"""Entropy of next-token distributions, in nats, straight from logits.

Everything takes raw logits `[..., vocab]` of any float dtype and works in float32 or better. A logit of -inf is a token
of probability 0 and adds nothing. A row that holds NaN or +inf, or nothing but -inf, gives NaN.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from adaptive.moments import Moments, Ranked, rank_and_measure

# exp of this is 0 in float32, and its square is finite: 0 * s and 0 * s * s are 0, as the limits say.
LOWEST_LOG_PROBABILITY = -1.0e4


def upcast(logits: Tensor) -> Tensor:
    """`logits` in float32, or in float64 if they are already."""
    return logits if logits.dtype == torch.float64 else logits.float()


def log_probabilities(logits: Tensor) -> Tensor:
    """Natural logarithms of the probabilities, `[..., vocab]`; those of impossible tokens are low instead of -inf."""
    return torch.log_softmax(upcast(logits), -1).clamp_min_(LOWEST_LOG_PROBABILITY)


def row_sum(x: Tensor) -> Tensor:
    """Sum over the last dimension, with the same bits for a row alone as for a row among others.

    Torch splits the sum of one long row among threads on the CPU, which changes its rounding; of two rows it does not.
    """
    if x.device.type == "cpu" and x.numel() == x.shape[-1] >= 32_768:
        return x.expand(2, *x.shape).sum(-1)[0]
    return x.sum(-1)


def power(base: Tensor, exponent: Tensor) -> Tensor:
    """`base ** exponent` for a base of at least 0 and an exponent above 0 (or a base above 0), in its own way.

    Torch takes the elements of `**` several at a time and the last few one by one, and the two round differently: a
    row's temperature would depend on its place in the batch. exp and log are the same everywhere.
    """
    return (exponent * base.log()).exp()


def entropy(logits: Tensor) -> Tensor:
    """Shannon entropy in nats, `[...]`, of the distribution `softmax(logits)`."""
    return moments(logits)[0]


def varentropy(logits: Tensor) -> Tensor:
    """Variance of the surprisal -ln p, in nats squared, `[...]`."""
    return moments(logits)[1]


def moments(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(entropy in nats, varentropy in nats squared), each `[...]`, from one softmax."""
    return _moments(log_probabilities(logits))


def _moments(s: Tensor) -> tuple[Tensor, Tensor]:
    p = s.exp()
    h = row_sum(p * s).neg_().clamp_min_(0.0).abs_()  # abs: no -0.0, whose reciprocal is -inf
    return h, row_sum((s + h[..., None]).square_().mul_(p))


@dataclass
class Statistics:
    """What step 1 knows of each row; float64 columns `[rows]`, taken before anything touches the logits.

    entropy, varentropy: nats, nats squared. top_prob: the largest probability. log_normalizer: logsumexp of the
    logits, so that logit - log_normalizer is a log probability. source: the raw logits of the whole batch and
    what follows from them; index: which of its rows these are, None means all. ahead: logsumexp and entropy, as
    `adaptive.policies.Control` has them, at a temperature that was known before; None if they were not found.
    """

    entropy: Tensor
    varentropy: Tensor
    top_prob: Tensor
    maximum: Tensor
    log_normalizer: Tensor
    source: Ranked
    moments: Moments
    index: Tensor | None = None
    ahead: tuple[Tensor, Tensor] | None = None

    @cached_property
    def logits(self) -> Tensor:
        """The raw logits, `[rows, vocab]`, float32 or better. Of a selection they are gathered only if asked for."""
        return self.source.logits if self.index is None else self.source.logits[self.index]

    @property
    def best(self) -> Tensor:
        """The largest logits in falling order, `[rows, n]`; one where there are kernels."""
        return self._of(self.source.best.values)

    @property
    def vocab_size(self) -> int:
        """Number of tokens of the vocabulary."""
        return self.source.logits.shape[-1]

    @property
    def failed(self) -> Tensor:
        """Rows `[rows]` that are no distribution: NaN or +inf among the logits, or nothing but -inf."""
        return ~torch.isfinite(self.maximum)

    @cached_property
    def possible(self) -> Tensor:
        """Number of tokens `[rows]` that the model itself gives a probability above 0."""
        if self.source.survey is not None:
            return self._of(self.source.survey.possible)
        return (self.logits > -torch.inf).sum(-1)

    @property
    def ties(self) -> Tensor:
        """Number of tokens `[rows]` that are as likely as the most likely."""
        if self.source.survey is not None:
            return self._of(self.source.survey.ties)
        return (self.logits == self.maximum[:, None]).sum(-1)

    def _of(self, column: Tensor) -> Tensor:
        return column if self.index is None else column[self.index]

    def select(self, rows: Tensor) -> "Statistics":
        """The same of some of its rows only."""
        columns = (self.entropy, self.varentropy, self.top_prob, self.maximum, self.log_normalizer)
        h, v, top, maximum, normalizer = (column[rows] for column in columns)
        index = rows if self.index is None else self.index[rows]
        moments = Moments(*(column[rows] for column in self.moments))
        ahead = None if self.ahead is None else (self.ahead[0][rows], self.ahead[1][rows])
        return Statistics(h, v, top, maximum, normalizer, self.source, moments, index, ahead)


def measure(logits: Tensor, ahead: Tensor | None = None, ladder: bool = False) -> Statistics:
    """Statistics of raw logits `[rows, vocab]`.

    Hints for kernels, which change no result. ahead: 1 / temperature of rows of which it is known already, NaN of
    others; ladder: whether entropy at several temperatures is of use.
    """
    ranked, moments, columns, found = rank_and_measure(upcast(logits.detach()), ahead, ladder)
    return Statistics(*columns, ranked, moments, ahead=found)
