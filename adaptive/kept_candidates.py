"""What filters keep of the most likely tokens, what that amounts to, and the draw from it."""

import torch
from torch import Tensor

from adaptive.draw import first_above


def keep(
    values: Tensor,
    inverse: Tensor,
    log_sum: Tensor,
    last: Tensor,
    mass: Tensor | None,
    share: Tensor | None,
    lowest: Tensor,
    most: Tensor | None,
    greedy: Tensor | None,
) -> tuple[Tensor, ...]:
    """Which candidates the filters that keep the most likely tokens keep: always the first ones.

    values: the candidates' logits. log_sum: of the whole row, or a little less. last to lowest: `adaptive.rows.Edges`,
    and most the surprisal that may not be passed, nats; None where nobody has such an edge, of mass where nothing lies
    beyond the candidates. A row whose set goes on beyond the candidates, or may do so, keeps them all.

    Returns (logits less the largest after temperature, their probabilities, which are kept `[rows, n]`; whether that
    is all of the row that is kept, whether no equals are parted `[rows]`; both of all rows).
    """
    y = (values - values[:, :1]).double() * inverse[:, None]
    weights = (y - log_sum[:, None]).exp()
    kept = values >= values.gather(-1, last.clamp(max=values.shape[-1] - 1)).clamp_min(torch.finfo(values.dtype).min)
    if most is not None:
        kept = kept & (~(log_sum[:, None] - y > most[:, None]) | (values == values[:, :1]))
        mass = None if mass is None else torch.where(most.isnan()[:, None], mass, torch.inf)
    if share is not None:
        left = weights * kept
        sums = left.cumsum(-1)
        edge = share * (sums[:, -1:] if mass is None else torch.where(kept[:, -1:], mass, sums[:, -1:]))
        kept = kept & (sums - left < edge)
    kept = kept & ~(y < lowest)
    if greedy is not None:
        kept = kept & ((values == values[:, :1]) | ~greedy[:, None])
    # What is left must lie above the last candidate, or there may be more of it; if its edge parts equals, ids decide.
    count = kept.sum(-1)
    floor = values.gather(-1, (count - 1).clamp_min(0)[:, None])
    decided, whole_groups = (floor > values[:, -1:])[:, 0], (values >= floor).sum(-1) == count
    return y, weights, kept, decided, whole_groups, (decided & whole_groups).all()


def amounts(y: Tensor, weights: Tensor, kept: Tensor, log_sum: Tensor, entropy: Tensor) -> tuple[Tensor, Tensor]:
    """(the weights of what is kept, `adaptive.pool.FIGURES`)."""
    weights = weights * kept
    mass = weights.sum(-1)
    inner = torch.nansum(weights * (y - log_sum[:, None]), -1)  # 0 * -inf is NaN and does not count
    likeliest = weights.amax(-1) / mass
    return weights, torch.stack((mass, mass.log() - inner / mass, kept.sum(-1).double(), likeliest, log_sum, entropy))


def draw_among(weights: Tensor, ids: Tensor, u: Tensor) -> Tensor:
    """See `adaptive.pool.Pool.draw`."""
    ids, order = ids.sort(dim=-1)
    sums = weights.gather(-1, order).cumsum(-1)
    return ids.gather(-1, first_above(sums, u[:, None] * sums[:, -1:]))[:, 0]


def higher_first(values: Tensor, ids: Tensor) -> Tensor:
    """The ids of candidates in falling order, the higher ones first among equals."""
    higher = ids.argsort(dim=-1, descending=True)
    order = values.gather(-1, higher).argsort(dim=-1, descending=True, stable=True)
    return ids.gather(-1, higher.gather(-1, order))
