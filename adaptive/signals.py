"""Signals: rules that watch the sampling info of one generation. Host side, no tensors.

A rule is looked at with each token and raises a signal on every token at which it holds. Entropy as a monitor of
quality: very negative entropy change or collapsed entropy goes before repetition, very high entropy before nonsense.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from adaptive.info import SamplingInfo
from adaptive.parameters import ParameterError

ACTIONS = ("report", "stop", "next_phase")
MOST_RULES = 16
WIDEST_WINDOW = 256


class Defaults(NamedTuple):
    """What a kind takes where a rule says nothing. None: the kind has no such thing. threshold in nats."""

    threshold: float | None
    window: int | None


KINDS: dict[str, Defaults] = {
    "entropy_drop": Defaults(-3.0, None),
    "entropy_collapse": Defaults(0.1, 32),
    "entropy_high": Defaults(5.0, None),
    "entropy_rise": Defaults(1.0, None),
    "entropy_spike": Defaults(3.0, 16),
    "saturated": Defaults(None, 16),
}
"""Every kind of rule; what each looks at is in `Monitor`."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. ParameterError with every violation when built."""

    kind: str
    threshold: float | None = None
    window: int | None = None
    action: str = "report"

    def __post_init__(self) -> None:
        if violations := list(self._violations()):
            raise ParameterError(violations)

    def _violations(self) -> Iterator[tuple[str, str]]:
        if self.kind not in KINDS:
            yield "kind", "must be one of " + ", ".join(KINDS)
            return
        defaults = KINDS[self.kind]
        if self.threshold is not None:
            if defaults.threshold is None:
                yield "threshold", f"must be unset for {self.kind}, which counts tokens"
            elif not abs(self.threshold) < float("inf"):
                yield "threshold", "must be a finite number"
        if self.window is not None:
            if defaults.window is None:
                yield "window", f"must be unset for {self.kind}, which looks at one token"
            elif not 1 <= self.window <= WIDEST_WINDOW:
                yield "window", f"must be from 1 to {WIDEST_WINDOW}"
        if self.action not in ACTIONS:
            yield "action", "must be one of " + ", ".join(ACTIONS)

    @property
    def bound(self) -> float:
        """The threshold in force."""
        default = KINDS[self.kind].threshold
        return float(self.width if default is None else default if self.threshold is None else self.threshold)

    @property
    def width(self) -> int:
        """The window in force, 1 for a kind without."""
        return self.window or KINDS[self.kind].window or 1


SIGNAL_PRESETS: dict[str, tuple[Rule, ...]] = {
    "default": tuple(Rule(kind) for kind in KINDS),
    "strict": (
        Rule("entropy_drop", -1.5),
        Rule("entropy_collapse", 0.3, 16),
        Rule("entropy_high", 3.5),
        Rule("entropy_rise", 0.5),
        Rule("entropy_spike", 2.0, 16),
        Rule("saturated", window=4),
    ),
}
"""Rules known by a name."""


class Signal(NamedTuple):
    """A rule that held: what it saw, and the threshold in force; nats, or tokens for "saturated"."""

    kind: str
    value: float
    threshold: float
    action: str


class Monitor:
    """Watches one generation. recent: original entropies of the tokens so far, as many as the widest window needs;
    saturated_run: for how many tokens in a row the policy has been saturated. Both can be handed on."""

    def __init__(self, rules: Sequence[Rule], recent: Iterable[float] = (), saturated_run: int = 0) -> None:
        self._rules = rules
        widest = max((rule.width for rule in rules if rule.kind != "saturated"), default=0)
        self.recent: deque[float] = deque(recent, maxlen=widest)
        self.saturated_run = saturated_run

    def take(self, info: SamplingInfo) -> list[Signal]:
        """Take in a token; the signals that it raises, in the order of the rules."""
        if not self._rules:
            return []
        self.saturated_run = self.saturated_run + 1 if info.saturated == 1.0 else 0
        before = list(self.recent)
        self.recent.append(info.original_entropy)
        signals = []
        for rule in self._rules:
            value = self._value(rule, info, before)
            if value is not None and self._holds(rule, value):
                signals.append(Signal(rule.kind, value, rule.bound, rule.action))
        return signals

    def _value(self, rule: Rule, info: SamplingInfo, before: list[float]) -> float | None:
        """What the rule looks at; None while its window is not full."""
        if rule.kind in ("entropy_drop", "entropy_rise"):
            return info.entropy_change
        if rule.kind == "entropy_high":
            return info.original_entropy
        if rule.kind == "saturated":
            return float(self.saturated_run)
        window = list(self.recent) if rule.kind == "entropy_collapse" else before
        if len(window) < rule.width:
            return None
        mean = sum(window[-rule.width :]) / rule.width
        return mean if rule.kind == "entropy_collapse" else info.original_entropy - mean

    def _holds(self, rule: Rule, value: float) -> bool:
        return value <= rule.bound if rule.kind in ("entropy_drop", "entropy_collapse") else value >= rule.bound
