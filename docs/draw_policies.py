"""Draws docs/policies/*.svg from the code itself: `pip install '.[docs]'`, then `python docs/draw_policies.py`.

Left: the temperature of a step against its original entropy. Right: the final entropy that comes of it.
The distributions are Zipf's over 4,096 tokens, p ~ 1 / rank ** s, from s = 12 (sure) to s = 0 (all equal).
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import torch

from adaptive import (
    PRESETS,
    AdaptiveP,
    Bell,
    Edt,
    EntropyBand,
    EntropyFeedback,
    EntropyPolynomial,
    Filters,
    Fixed,
    Greedy,
    Policy,
    Quadrant,
    Rows,
    RowSettings,
    TargetEntropy,
    entropy,
    step,
)

FOLDER = Path(__file__).parent / "policies"
VOCAB, POINTS = 4096, 161
State = Callable[[float], Mapping[str, float]]


def _preset(name: str) -> tuple[Policy, Filters]:
    return PRESETS[name].policy, PRESETS[name].filters


def _plain(policy: Policy) -> tuple[Policy, Filters]:
    return policy, Filters()


LINES: dict[str, dict[str, tuple[Policy, Filters]]] = {
    "fixed": {"1.0": _plain(Fixed()), "0.7": _plain(Fixed(0.7))},
    "greedy": {"greedy": _plain(Greedy())},
    "entropy_band": {"default": _plain(EntropyBand())}
    | {name: _preset(name) for name in ("llamacpp.dynatemp", "ooba.dynatemp", "qr.edt")},
    "edt": {"default": _plain(Edt()), "edt.paper": _preset("edt.paper")},
    "target_entropy": {f"target {h}": _plain(TargetEntropy(h)) for h in (0.5, 1.5, 3.0)},
    "entropy_feedback": {
        f"setpoint {h}": _plain(EntropyFeedback(h, measure="original_entropy")) for h in (0.5, 1.5, 3.0)
    },
    "mirostat": {name: _preset(name) for name in ("mirostat2.paper", "mirostat2.llamacpp")},
    "quadrant": {"default": _plain(Quadrant()), "entropix": _preset("entropix")},
    "adaptive_p": {f"target {p}, min_p 0.05": (AdaptiveP(p), Filters(min_p=0.05)) for p in (0.2, 0.5, 0.8)},
    "bell": {"default": _plain(Bell()), "valley": _plain(Bell(1.2, -0.6))},
    "entropy_polynomial": {"default": _plain(EntropyPolynomial())},
    "phased": {"first phase: fixed 1.2": _plain(Fixed(1.2)), "then: edt": _plain(Edt())},
}
"""What is drawn of each policy."""
STATES: dict[str, State] = {"entropy_feedback": lambda h: {"mean": h, "weight": 1.0, "integral": 0.0}}
"""The state at entropy h, of policies that know nothing at their beginning: here, that it has been h all along."""


def curve(kind: str, policy: Policy, filters: Filters) -> list[tuple[float, float, float]]:
    """(original entropy, temperature, final entropy) of the distributions, NaN for the temperature of greedy."""
    logits = _distributions()
    states = STATES.get(kind, lambda _: policy.initial_state())
    rows = Rows([RowSettings(policy, filters, state=states(h)) for h in entropy(logits).tolist()])
    records = step(logits, rows)[1].records()
    return [(info.original_entropy, info.temperature, info.final_entropy) for info, _ in records]


@cache
def _distributions() -> torch.Tensor:
    """Logits `[POINTS, VOCAB]` whose entropies stand at equal distances."""
    exponents = torch.linspace(12.0, 0.0, 3000, dtype=torch.float64)[:, None]
    ranks = torch.arange(1.0, VOCAB + 1, dtype=torch.float64).log()
    entropies = torch.cat([entropy(-part * ranks) for part in exponents.split(100)])
    wanted = torch.linspace(0.0, float(entropies[-1]), POINTS, dtype=torch.float64)
    return -exponents[torch.searchsorted(entropies, wanted).clamp(max=len(exponents) - 1)] * ranks


def digest(kind: str) -> str:
    """A few points of each line, in words: written into the picture, so that a test can see whether it is current."""
    parts = []
    for name, (policy, filters) in LINES[kind].items():
        points = curve(kind, policy, filters)[:: POINTS // 8]
        parts.append(f"{name}: " + " ".join(f"{h:.3f},{t:.3f},{after:.3f}" for h, t, after in points))
    return "; ".join(parts)


def draw(kind: str) -> None:
    """Write the picture of one policy."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": kind, "font.size": 9, "font.family": "sans-serif"}
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8.4, 2.9), layout="constrained")
    for name, (policy, filters) in LINES[kind].items():
        h, t, after = zip(*curve(kind, policy, filters), strict=True)
        left.plot(h, t, label=name)
        right.plot(h, after, label=name)
    right.plot([0, h[-1]], [0, h[-1]], color="0.7", linewidth=0.8, linestyle="--", zorder=0)
    left.set(xlabel="original entropy, nats", ylabel="temperature", xlim=(0, h[-1]), ylim=(0, None))
    right.set(xlabel="original entropy, nats", ylabel="final entropy, nats", xlim=(0, h[-1]), ylim=(0, h[-1]))
    if kind == "greedy":
        left.text(0.5, 0.5, "no temperature", ha="center", transform=left.transAxes, color="0.5")
    right.legend(frameon=False, loc="upper left")
    for side in (left, right):
        side.spines[["top", "right"]].set_visible(False)
    figure.savefig(FOLDER / f"{kind}.svg", metadata={"Date": None, "Description": digest(kind)})
    pyplot.close(figure)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in LINES:
        draw(each)
