"""What other programs do, transcribed from their sources, and the penalties by their formulas. Numpy, one row."""

import numpy as np

from tests.oracle import clip, log_softmax


class LlamaAdaptiveP:
    """llama.cpp's adaptive-p, transcribed from src/llama-sampler.cpp. p: probabilities after the other samplers."""

    def __init__(self, target: float, decay: float) -> None:
        self.target, self.decay = target, clip(decay, 0.0, 0.99)
        self.weighted_sum = target / (1.0 - self.decay)
        self.total_weight = 1.0 / (1.0 - self.decay)

    def distribution(self, p: np.ndarray) -> np.ndarray:
        adapted = clip(2.0 * clip(self.target, 0.0, 1.0) - self.weighted_sum / self.total_weight, 0.0, 1.0)
        distance = np.abs(p - adapted) / 0.3
        logits = np.where(p > 0, 5.0 - 10.0 * distance**2 / (1.0 + distance), -np.inf)
        return np.exp(log_softmax(logits))

    def accept(self, p_of_drawn: float) -> None:
        self.weighted_sum = p_of_drawn + self.decay * self.weighted_sum
        self.total_weight = 1.0 + self.decay * self.total_weight


def entropix(bits: float, bits2: float) -> tuple[float, int, float]:
    """(T, top_k, top_p) of entropix's sampler of October 2024 (commit cceeb84), attention terms at 0. Entropy in bits,
    varentropy in bits squared. Its argmax is top_k 1; its clarifying question is left out."""
    temperature, top_k, top_p = 0.666, 27, 0.90
    if bits < 0.1 and bits2 < 0.1:
        return temperature, 1, 1.0
    if bits > 5.0 and bits2 < 0.1:
        return min(1.5, temperature * 1.3), top_k, top_p
    if bits < 5.0 and bits2 > 5.0:
        return min(1.5, temperature * 1.2), max(5, int(top_k * 1.5)), top_p
    if bits > 3.0 and bits2 > 5.0:
        return max(2.0, temperature * 2.0), top_k, max(0.5, top_p)
    return temperature * (1 + 0.3 * (bits + bits2)), top_k, clip(top_p, 0.1, 1.0)


def repetition(z: np.ndarray, tokens: list[int], penalty: float) -> np.ndarray:
    """CTRL, arXiv 1909.05858, over the unique tokens of prompt and output."""
    out = z.copy()
    for token in set(tokens):
        out[token] = z[token] / penalty if z[token] > 0 else z[token] * penalty
    return out


def presence_and_frequency(z: np.ndarray, output: list[int], presence: float, frequency: float) -> np.ndarray:
    """OpenAI's, as vLLM has them: of the output alone."""
    out = z.copy()
    for token in output:
        out[token] -= frequency
    for token in set(output):
        out[token] -= presence
    return out


def dry(ids: list[int], multiplier: float, base: float, allowed: int, window: int, breakers: set[int]) -> dict:
    """text-generation-webui's DRYLogitsProcessor, transcribed: what is subtracted, by token."""
    ids = ids[-window:] if window else ids
    if not ids or ids[-1] in breakers:
        return {}
    lengths: dict[int, int] = {}
    for i in range(len(ids) - 1):
        following = ids[i + 1]
        if ids[i] != ids[-1] or following in breakers:
            continue
        length = 1
        while length < 50:
            j = i - length
            if j < 0 or ids[j] != ids[-(length + 1)] or ids[-(length + 1)] in breakers:
                break
            length += 1
        lengths[following] = max(length, lengths.get(following, 0))
    return {token: multiplier * base ** (n - allowed) for token, n in lengths.items() if n >= allowed}
