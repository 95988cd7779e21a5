"""The smallest set of most likely tokens with a given mass, exact, without sorting the vocabulary."""

import math

import torch
from torch import Tensor

from adaptive.scratch import scratch

_BINS = 4096
_DEEPEST = 60.0
"""What is exp(60) times less likely than the most likely token shares a bin with all that is less likely still."""


def top_p_kept(shifted: Tensor, p: Tensor) -> Tensor:
    """Which tokens top-p keeps, bool `[rows, vocab]`.

    shifted: logits less their maximum, `[rows, vocab]`; p: `[rows, 1]`, 1 or more keeps all. Of equally likely tokens
    at the edge of the set the higher ids stay. On the CPU a histogram finds the few tokens among which the edge lies;
    a GPU, which sorts fast and must not be asked, sorts the rows.
    """
    weights = shifted.softmax(-1)
    on_cpu = shifted.device.type == "cpu"
    floor, spare = (edges_by_bins if on_cpu else _edges_by_sort)(shifted, weights, p)
    kept = (shifted >= floor) | (p >= 1.0)
    if not on_cpu or bool((spare > 0).any()):
        # The edge runs through a group of equally likely tokens: drop as many of it as are spare, lowest ids first.
        tied = (shifted == floor) & (p < 1.0)
        kept &= ~(tied & (tied.cumsum(-1) <= spare))
    return kept


def _edges_by_sort(shifted: Tensor, weights: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """(the lowest logit of each row's set, how many tokens that tie with it are not in the set), `[rows, 1]`."""
    ranked, order = shifted.sort(-1, descending=True)
    sums = weights.gather(-1, order).double().cumsum(-1)
    last = (sums < p * sums[:, -1:]).sum(-1, keepdim=True).clamp(max=shifted.shape[-1] - 1)
    floor = ranked.gather(-1, last)
    return floor, (ranked >= floor).sum(-1, keepdim=True) - last - 1


def edges_by_bins(shifted: Tensor, weights: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """The same, on the CPU. Bins of equal width in logits; of a row only what is in the bin of the edge is sorted."""
    vocab = shifted.shape[-1]
    sound = ~weights[:, :1].isnan()  # the row is a distribution
    if not bool(sound.all()):
        shifted, weights = (x.masked_fill(~sound, 0.0) for x in (shifted, weights))
    # What lies deeper has less than exp(-2) of what top-p drops, so the edge is mostly above.
    depth = (2.0 + math.log(vocab) - (1.0 - p).clamp_min(0.0).log()).clamp(max=_DEEPEST)
    width = (_BINS - 1) / depth
    shape = tuple(shifted.shape)
    depths = torch.mul(shifted, -width.to(shifted.dtype), out=scratch("depths", shape, shifted)).clamp_(max=_BINS - 1)
    bins = scratch("bins", shape, shifted, torch.int16).copy_(depths)
    index = scratch("bins", shape, shifted, torch.int64).copy_(bins)
    precise = scratch("weights", shape, shifted, torch.float64).copy_(weights)
    masses = precise.new_zeros(len(weights), _BINS).scatter_add_(-1, index, precise)
    sums = masses.cumsum(-1)
    goal = p * sums[:, -1:]
    place = torch.searchsorted(sums, goal).clamp_(max=_BINS - 1)
    before = (sums - masses).gather(-1, place)
    # Into int16: a result of bool takes eight times longer.
    places = _places(torch.eq(bins, place.short(), out=scratch("inside", shape, shifted, torch.int16)).flatten())
    row, token = places // vocab, places % vocab
    count = torch.bincount(row, minlength=len(shifted))
    # Each row's bin as a row of its own, as wide as the fullest; what is spare adds nothing.
    column = torch.arange(len(places)) - (count.cumsum(0) - count)[row]
    members = shifted.new_full((len(shifted), int(count.max())), -torch.inf)
    ranked, order = members.index_put_((row, column), shifted[row, token]).sort(descending=True)
    inside = precise.new_zeros(members.shape).index_put_((row, column), precise[row, token]).gather(-1, order)
    reached = before + inside.cumsum(-1)
    last = torch.minimum((reached < goal).sum(-1, keepdim=True), count[:, None] - 1).clamp_(min=0)
    floor = ranked.gather(-1, last)
    spare = torch.minimum((ranked >= floor).sum(-1, keepdim=True), count[:, None]) - last - 1
    needed = sound & (p < 1.0)
    return floor.masked_fill_(~needed, -torch.inf), spare.masked_fill_(~needed, 0)


def _places(inside: Tensor) -> Tensor:
    """Where int16 `[n]` is not 0, which is in few places: four of them are looked at at a time."""
    if len(inside) % 4:
        inside = torch.nn.functional.pad(inside, (0, -len(inside) % 4))
    fours = inside.view(torch.int64).nonzero()
    places = (fours * 4 + torch.arange(4)).flatten()
    return places[inside[places] > 0]
