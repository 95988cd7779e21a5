"""The sampling mathematics a second time, in float64 numpy, one row at a time. Shares no code with `adaptive`.
Penalties, and what is transcribed from other programs, are in `tests.peers`.

Slow and plain on purpose: every function is its published formula, sorted and summed whole. A filter returns which
tokens it keeps and its *margin*: how near any of its comparisons was to falling the other way. Float32 may decide
otherwise only where the margin is about as small as its rounding.
"""

import math
from dataclasses import dataclass

import numpy as np

Kept = tuple[np.ndarray, float]


def log_softmax(z: np.ndarray) -> np.ndarray:
    """Log probabilities of logits `[vocab]`."""
    shifted = z - z.max()
    return shifted - math.log(np.exp(shifted).sum())


def entropy(log_p: np.ndarray) -> float:
    """Entropy in nats."""
    p = np.exp(log_p)
    return float(-(p * np.where(p > 0, log_p, 0.0)).sum())


def varentropy(log_p: np.ndarray) -> float:
    """Variance of the surprisal, nats squared."""
    p = np.exp(log_p)
    return float((p * (np.where(p > 0, -log_p, 0.0) - entropy(log_p)) ** 2).sum())


# Policies: temperature from the original entropy h (nats), varentropy v (nats squared), and state.


def clip(value: float, least: float, most: float) -> float:
    """`value` within two bounds."""
    return min(max(value, least), most)


def band_temperature(h: float, low: float, high: float, at_low: float, at_high: float, exponent: float) -> float:
    """EntropyBand; h in nats or as a share, as its band is. Also dynamic temperature, with the band 0 to 1."""
    return at_low + (at_high - at_low) * clip((h - low) / (high - low), 0.0, 1.0) ** exponent


def edt_temperature(h: float, base: float, theta: float, n: float, least: float, most: float) -> float:
    """EDT, arXiv 2403.14541: T0 N^(theta / H)."""
    wish = base * n ** (theta / h) if h > 0 else (0.0 if theta > 0 and n < 1 else base)
    return clip(wish, least, most)


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


def bell_temperature(share: float, base: float, peak: float, center: float, width: float) -> float:
    """Bell before its bounds; share: entropy / ln V."""
    return base + peak * math.exp(-((share - center) ** 2) / (2 * width**2))


def polynomial_temperature(h: float) -> float:
    """arXiv 2410.01104: 1 / beta with its coefficients."""
    beta = max(float(np.polyval([-0.037, 0.481, -2.3, 4.917, -1.791], h)), 1.0) if h > 0.5 else 1.0
    return 1.0 / beta


@dataclass
class Feedback:
    """The PI controller of entropy_feedback, from its words: a mean that forgets half in half_life tokens (as an
    explicitly weighted mean of everything measured), anti-windup by a sum that stands still at a bound."""

    setpoint: float
    half_life: float
    kp: float
    ki: float
    base: float
    least: float
    most: float

    def __post_init__(self) -> None:
        self.measured: list[float] = []
        self.integral = 0.0

    @property
    def mean(self) -> float:
        """Weights 1, f, f^2, ... backwards in time, f^half_life = 1/2."""
        ages = np.arange(len(self.measured))[::-1]
        return float(np.average(self.measured, weights=0.5 ** (ages / self.half_life)))

    def wish(self, error: float, integral: float) -> float:
        return self.base * math.exp(clip(self.kp * error + self.ki * integral, -50.0, 50.0))

    @property
    def temperature(self) -> float:
        error = self.setpoint - self.mean if self.measured else 0.0
        return clip(self.wish(error, self.integral), self.least, self.most)

    def absorb(self, measured: float) -> None:
        self.measured.append(measured)
        error = self.setpoint - self.mean
        wish = self.wish(error, self.integral + error)
        if not (wish > self.most and error > 0) and not (wish < self.least and error < 0):
            self.integral += error


# Filters: which tokens of logits `[vocab]` stay, and the margin.


def _nearest(differences: np.ndarray) -> float:
    finite = differences[np.isfinite(differences)]
    return float(np.abs(finite).min()) if len(finite) else math.inf


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def keep_top_k(z: np.ndarray, k: int) -> Kept:
    """The k most likely, and all that tie with the last of them."""
    return z >= np.sort(z)[::-1][min(k, len(z)) - 1], math.inf


def keep_top_p(z: np.ndarray, p: float) -> Kept:
    """The smallest set of most likely tokens whose mass is at least p; of equals the higher ids first."""
    if p >= 1.0:
        return np.ones(len(z), bool), math.inf
    order = np.lexsort((-np.arange(len(z)), -z))
    sums = np.exp(log_softmax(z))[order].cumsum()
    kept = np.zeros(len(z), bool)
    kept[order[: int((sums < p).sum()) + 1]] = True
    return kept, _nearest(sums - p)


def keep_min_p(z: np.ndarray, min_p: float) -> Kept:
    """p >= min_p p_max."""
    log_ratio = z - z.max()
    return log_ratio >= _log(min_p), _nearest(log_ratio[z < z.max()] - _log(min_p))


def keep_typical_p(z: np.ndarray, mass: float) -> Kept:
    """Meister et al. 2022: the smallest set with this mass of the tokens whose surprisal is nearest the entropy."""
    if mass >= 1.0:
        return np.ones(len(z), bool), math.inf
    s = log_softmax(z)
    distance = np.abs(-s - entropy(s))
    order = np.argsort(distance, kind="stable")
    sums = np.exp(s)[order].cumsum()
    last = min(int((sums < mass).sum()), len(z) - 1)
    edge = order[last]
    others = distance[z != z[edge]] - distance[edge]
    return distance <= distance[edge], min(_nearest(sums - mass), _nearest(others))


def keep_epsilon(z: np.ndarray, epsilon: float) -> Kept:
    """p >= epsilon, and the most likely."""
    s = log_softmax(z)
    return (s >= _log(epsilon)) | (z == z.max()), _nearest(s - _log(epsilon))


def keep_eta(z: np.ndarray, eta: float) -> Kept:
    """p >= min(eta, sqrt(eta) e^-H), and the most likely (Hewitt et al. 2022, as Hugging Face reads it)."""
    return keep_epsilon(z, min(eta, math.sqrt(eta) * math.exp(-entropy(log_softmax(z)))))


def keep_top_n_sigma(z: np.ndarray, n: float) -> Kept:
    """z >= max - n sigma, the population's sigma of the finite logits."""
    distance = (z - z.max()) + n * z[np.isfinite(z)].std()
    return (distance >= 0) | (z == z.max()), _nearest(distance)


def keep_p_less(z: np.ndarray, _: bool = True) -> Kept:
    """p >= sum of p^2 (arXiv 2509.23234), and the most likely."""
    s = log_softmax(z)
    bar = _log(float(np.exp(2 * s).sum()))
    return (s >= bar) | (z == z.max()), _nearest(s - bar)


def keep_top_h_paper(z: np.ndarray, share: float) -> Kept:
    """arXiv 2509.02510: the longest prefix whose renormalised entropy is at most share H."""
    if share >= 1.0:
        return np.ones(len(z), bool), math.inf
    s = log_softmax(z)
    order = np.argsort(-s, kind="stable")
    prefixes = [entropy(log_softmax(s[order[: n + 1]])) for n in range(np.isfinite(s).sum())]
    return _prefix(order, np.array(prefixes), share * entropy(s))


def keep_top_h_hugging_face(z: np.ndarray, share: float) -> Kept:
    """Hugging Face's TopHLogitsWarper: partial sums of -p ln p over the 100 most likely, at most share of the whole."""
    order = np.argsort(-z, kind="stable")[:100]
    order = order[np.isfinite(z[order])]
    s = log_softmax(z[order])
    return _prefix(order, (-np.exp(s) * s).cumsum(), share * entropy(s), len(z))


def _prefix(order: np.ndarray, values: np.ndarray, bar: float, size: int | None = None) -> Kept:
    kept = np.zeros(size or len(order), bool)
    kept[order[: max(int((values <= bar).cumprod().sum()), 1)]] = True
    return kept, _nearest(values[1:] - bar)


def keep_xtc(z: np.ndarray, threshold: float) -> Kept:
    """text-generation-webui's XTC when it acts: of sorted tokens drop each i whose p[i + 1] >= threshold."""
    p = np.exp(log_softmax(z))
    order = np.argsort(-p, kind="stable")
    kept = np.ones(len(z), bool)
    kept[order[:-1][p[order[1:]] >= threshold]] = False
    return kept, _nearest(p - threshold)


def keep_max_surprisal(z: np.ndarray, mu: float) -> Kept:
    """Mirostat 2's truncation: -ln p <= mu, and the most likely."""
    s = log_softmax(z)
    return (-s <= mu) | (z == z.max()), _nearest(-s - mu)


KEEP = {
    "max_surprisal": keep_max_surprisal,
    "top_n_sigma": keep_top_n_sigma,
    "p_less": keep_p_less,
    "top_h": keep_top_h_paper,
    "top_h_hugging_face": keep_top_h_hugging_face,
    "top_k": keep_top_k,
    "top_p": keep_top_p,
    "min_p": keep_min_p,
    "typical_p": keep_typical_p,
    "epsilon_cutoff": keep_epsilon,
    "eta_cutoff": keep_eta,
    "xtc": keep_xtc,
}
"""Every filter in the documented order: top_n_sigma, p_less, then Hugging Face's order, then xtc."""


# The whole step.


@dataclass
class Step:
    """All figures of one step; `margin` is how near any filter came to another decision."""

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


def step(z: np.ndarray, temperature: float, changed: np.ndarray | None = None, **filters: float | None) -> Step:
    """One step on logits `[vocab]`: scale, filters by their names in `KEEP`. changed: logits after penalties."""
    z = z.astype(np.float64)
    log_p = log_softmax(z)
    scaled = log_softmax((z if changed is None else changed) / temperature)
    left, margin = scaled.copy(), math.inf
    for name, keep in KEEP.items():
        if filters.get(name):
            kept, near = keep(left, filters[name])
            left[~kept] = -np.inf
            margin = min(margin, near)
    kept = np.isfinite(left)
    mass = float(np.exp(scaled[kept]).sum())
    log_q = np.where(kept, scaled - math.log(mass), -np.inf)
    return Step(
        original_entropy=entropy(log_p),
        varentropy=varentropy(log_p),
        original_top_prob=float(np.exp(log_p.max())),
        scaled_entropy=entropy(scaled),
        final_entropy=entropy(log_q[kept]),
        effective_vocab_size=int(kept.sum()),
        top_token_prob=float(np.exp(log_q.max())),
        kept_mass=mass,
        log_p=log_p,
        log_q=log_q,
        margin=margin,
    )
