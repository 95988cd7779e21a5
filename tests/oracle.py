"""The sampling mathematics a second time, in float64 numpy, one row at a time. Shares no code with `adaptive`."""

import math
from dataclasses import dataclass

import numpy as np


def log_softmax(z: np.ndarray) -> np.ndarray:
    """Log probabilities of logits `[vocab]`."""
    shifted = z - z.max()
    return shifted - math.log(np.exp(shifted).sum())


def entropy(log_p: np.ndarray) -> float:
    """Entropy in nats."""
    p = np.exp(log_p)
    return float(-(p * np.where(p > 0, log_p, 0.0)).sum())


def band_temperature(h: float, low: float, high: float, at_low: float, at_high: float, exponent: float) -> float:
    """EntropyBand in nats."""
    x = min(max((h - low) / (high - low), 0.0), 1.0) ** exponent
    return at_low + (at_high - at_low) * x


def edt_temperature(h: float, base: float, theta: float, n: float, least: float, most: float) -> float:
    """EDT."""
    wish = base * n ** (theta / h) if h > 0 else (0.0 if theta > 0 else base)
    return min(max(wish, least), most)


def target_temperature(z: np.ndarray, target: float, least: float, most: float) -> float:
    """The temperature with a given entropy, by plain bisection."""
    for bound, beyond in ((most, lambda h: h <= target), (least, lambda h: h >= target)):
        if beyond(entropy(log_softmax(z / bound))):
            return bound
    low, high = least, most
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if entropy(log_softmax(z / middle)) < target else (low, middle)
    return (low + high) / 2


@dataclass
class Step:
    """All figures of one step; `margin` is how near (in probability) the edge of top-p is to changing the count."""

    original_entropy: float
    varentropy: float
    original_top_prob: float
    scaled_entropy: float
    final_entropy: float
    effective_vocab_size: int
    top_token_prob: float
    kept_mass: float
    log_p: np.ndarray
    log_q: np.ndarray
    margin: float


def step(
    z: np.ndarray,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Step:
    """One step on logits `[vocab]`, filters in the documented order."""
    z = z.astype(np.float64)
    log_p = log_softmax(z)
    p = np.exp(log_p)
    h = entropy(log_p)
    scaled = log_softmax(z / temperature)
    order = np.argsort(-scaled, kind="stable")
    kept = np.ones(len(z), bool)
    margin = math.inf
    if top_k is not None and top_k < len(z):
        kept &= scaled >= scaled[order[top_k - 1]]
        gap = scaled[order[top_k - 1]] - scaled[order[top_k]]
        margin = min(margin, gap)
    if top_p is not None and top_p < 1.0:
        ranked = [i for i in order if kept[i]]
        mass = np.exp(scaled[ranked])
        sums = np.cumsum(mass) / mass.sum()
        count = int(np.searchsorted(sums, top_p)) + 1
        kept = np.zeros(len(z), bool)
        kept[ranked[:count]] = True
        margin = min(margin, float(np.abs(sums - top_p).min()))
    if min_p:
        ratio = np.exp(scaled - scaled.max())
        kept &= ratio >= min_p
        margin = min(margin, float(np.abs(np.log(ratio[ratio > 0]) - math.log(min_p)).min()))
    kept &= np.isfinite(z)
    mass = float(np.exp(scaled[kept]).sum())
    log_q = np.where(kept, scaled - math.log(mass), -np.inf)
    return Step(
        original_entropy=h,
        varentropy=float((p * np.where(p > 0, -log_p - h, 0.0) ** 2).sum()),
        original_top_prob=float(p.max()),
        scaled_entropy=entropy(scaled),
        final_entropy=entropy(log_q[kept]),
        effective_vocab_size=int(kept.sum()),
        top_token_prob=float(np.exp(log_q.max())),
        kept_mass=mass,
        log_p=log_p,
        log_q=log_q,
        margin=margin,
    )
