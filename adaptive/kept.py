"""What each filter keeps, for a batch: logits `[rows, vocab]` and one value a row `[rows, 1]` to bool `[rows, vocab]`.

A filter works on the distribution `softmax(logits)` and always keeps a token.
"""

import torch
from torch import Tensor

from adaptive.entropy import log_probabilities, moments, row_sum

_TOP_H_CANDIDATES = 100


def top_k_floor(ranked: Tensor, k: Tensor) -> Tensor:
    """The k-th largest logit, `[..., 1]`. ranked: the largest logits in falling order, `[..., n]`; k: `[..., 1]`."""
    return ranked.gather(-1, k.clamp(max=ranked.shape[-1]) - 1)


def min_p_floor(min_p: Tensor) -> Tensor:
    """The lowest logit, relative to the largest, that min_p keeps; of the shape of min_p."""
    return min_p.clamp(max=1.0).log()


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
