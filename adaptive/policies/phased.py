"""One policy after another, and how far a request has come with its own."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from adaptive.parameters import ParameterError
from adaptive.policies.base import Policy, StateValue

MOST_PHASES = 8
LONGEST_MARKER = 256


@dataclass(frozen=True, slots=True)
class EntropyEvent:
    """The original entropy is at least `above`, or at most `below`, nats, for some tokens in a row."""

    above: float | None = None
    below: float | None = None
    tokens: int = 1

    def holds(self, entropy: float) -> bool:
        """Whether one token's entropy is on the asked side."""
        return entropy >= self.above if self.above is not None else self.below is not None and entropy <= self.below


@dataclass(frozen=True, slots=True)
class Phase:
    """A policy, and until when it lasts: a marker in the text, a number of tokens, an entropy event, or for good."""

    policy: Policy
    until: str | int | EntropyEvent | None = None


@dataclass(frozen=True, slots=True)
class Phased(Policy):
    """One policy after another: until a marker in the text, a number of tokens, or an entropy event.

    A phase ends after the token that fulfils its `until`. Each phase's policy keeps a state of its own. Which phase a
    request is in is decided on the host, by `Course`: a marker is text, and the sampler meets only the phase's policy.
    """

    name: ClassVar[str] = "phased"
    state: ClassVar[tuple[StateValue, ...]] = (
        StateValue("phase", "The phase that the next token is drawn in, from 0."),
        StateValue("tokens", "Tokens drawn in it.", "tokens"),
        StateValue("in_a_row", "Tokens in a row that fulfil its entropy event.", "tokens"),
    )
    phases: tuple[Phase, ...] = field(default=(), metadata={"help": "The phases in order."})

    @classmethod
    def parameters(cls) -> Iterator[Any]:
        """None that are numbers: phases are a structure of their own."""
        return iter(())

    def __post_init__(self) -> None:
        violations = list(self._violations())
        if violations:
            raise ParameterError(violations)

    def _violations(self) -> Iterator[tuple[str, str]]:
        if not 1 <= len(self.phases) <= MOST_PHASES:
            yield "phases", f"must be 1 to {MOST_PHASES}"
        for i, phase in enumerate(self.phases):
            path = f"phases[{i}]"
            if isinstance(phase.policy, Phased):
                yield f"{path}.policy", "must be any kind but phased"
            last = i == len(self.phases) - 1
            if last != (phase.until is None):
                yield f"{path}.until", "must be unset in the last phase, which lasts" if last else "must be set"
            yield from _until_violations(path, phase.until)


def _until_violations(path: str, until: Any) -> Iterator[tuple[str, str]]:
    if isinstance(until, str) and not 1 <= len(until) <= LONGEST_MARKER:
        yield f"{path}.marker", f"must have 1 to {LONGEST_MARKER} characters"
    elif isinstance(until, int) and until < 1:
        yield f"{path}.tokens", "must be at least 1"
    elif isinstance(until, EntropyEvent):
        bound = until.above if until.above is not None else until.below
        if bound is None or not 0 <= bound < float("inf"):
            yield f"{path}.entropy_event", "must have a bound, above or below, that is finite and at least 0"
        if until.tokens < 1:
            yield f"{path}.entropy_event.tokens", "must be at least 1"


@dataclass(frozen=True, slots=True)
class PolicyState:
    """The state of a request's policy by name, as it is reported and sent again. phases: of a phased policy's."""

    policy: str
    values: dict[str, float]
    phases: tuple["PolicyState | None", ...] = ()


class Course:
    """How far one request has come with its policy: the phase it is in, and the state of each phase's policy.

    A policy that is not phased is a course of one phase. The sampler is given `policy` and `state`; after each token
    `take` learns the state that came of it and says whether the next token is drawn under another policy.
    """

    def __init__(self, policy: Policy, state: PolicyState | None = None) -> None:
        """ParameterError if `state` is not one of this policy's."""
        self._whole = policy
        self._phases = policy.phases if isinstance(policy, Phased) else (Phase(policy),)
        self._states = [_first_state(phase.policy) for phase in self._phases]
        self.phase, self.tokens, self._in_a_row, self._text = 0, 0, 0, ""
        if state is not None:
            self._restore(state)

    @property
    def policy(self) -> Policy:
        """The policy of the next token."""
        return self._phases[self.phase].policy

    @property
    def state(self) -> dict[str, float]:
        """Its state."""
        return self._states[self.phase]

    @property
    def phased(self) -> bool:
        """Whether there can be another phase at all."""
        return isinstance(self._whole, Phased)

    @property
    def reads_text(self) -> bool:
        """Whether the phase ends at a marker."""
        return isinstance(self._phases[self.phase].until, str)

    def take(self, state: tuple[float, ...], entropy: float, text: str) -> bool:
        """Take in a drawn token: the policy's state after it, its original entropy, the text that it added.

        Whether it ended the phase.
        """
        self._states[self.phase] = dict(zip(self.state, state, strict=False))
        self.tokens += 1
        until = self._phases[self.phase].until
        if isinstance(until, EntropyEvent):
            self._in_a_row = self._in_a_row + 1 if until.holds(entropy) else 0
            return self._in_a_row >= until.tokens and self.advance()
        if isinstance(until, str):
            # Only a marker's length can still become part of one.
            self._text = (self._text + text)[-(len(until) + len(text)) :]
            return until in self._text and self.advance()
        return until is not None and self.tokens >= until and self.advance()

    def advance(self) -> bool:
        """Go on to the next phase; False if this is the last."""
        if self.phase + 1 >= len(self._phases):
            return False
        self.phase, self.tokens, self._in_a_row, self._text = self.phase + 1, 0, 0, ""
        return True

    def replay(self, text: str) -> None:
        """After a restore: the text that was drawn in this phase, in which a marker may have begun."""
        self._text = text

    def report(self) -> PolicyState | None:
        """The state of the whole; None for a policy without state."""
        if not self.phased:
            return PolicyState(self._whole.name, dict(self.state)) if self.state else None
        values = {"phase": float(self.phase), "tokens": float(self.tokens), "in_a_row": float(self._in_a_row)}
        nested = tuple(
            PolicyState(phase.policy.name, dict(state)) if state else None
            for phase, state in zip(self._phases, self._states, strict=True)
        )
        return PolicyState(self._whole.name, values, nested)

    def _restore(self, state: PolicyState) -> None:
        if state.policy != self._whole.name:
            raise ParameterError([("policy", f"must be {self._whole.name}, the request's policy")])
        if not self.phased:
            if state.phases:
                raise ParameterError([("phases", f"must be unset: {state.policy} has no phases")])
            self._states[0] = _checked(self.policy, state.values, "values")
            return
        values = _checked(self._whole, state.values, "values")
        if not (values["phase"] < len(self._phases) and all(v >= 0 and v == int(v) for v in values.values())):
            raise ParameterError([("values", "must be whole numbers, and phase one of the policy's phases")])
        self.phase, self.tokens = int(values["phase"]), int(values["tokens"])
        self._in_a_row = int(values["in_a_row"])
        if len(state.phases) != len(self._phases):
            raise ParameterError([("phases", f"must be {len(self._phases)}, one for each phase")])
        for i, (phase, nested) in enumerate(zip(self._phases, state.phases, strict=True)):
            given = {} if nested is None else nested.values
            if nested is not None and nested.policy not in ("", phase.policy.name):
                raise ParameterError([(f"phases[{i}].policy", f"must be {phase.policy.name}")])
            self._states[i] = _checked(phase.policy, given, f"phases[{i}].values")


def _first_state(policy: Policy) -> dict[str, float]:
    """A policy may be a stranger's: whatever it can get wrong on its own is found here, before it joins others."""
    int(policy.largest_top_k)
    return _checked(policy, policy.initial_state(), "initial_state")


def _checked(policy: Policy, values: dict[str, float], path: str) -> dict[str, float]:
    names = [value.name for value in policy.state]
    if sorted(values) != sorted(names):
        raise ParameterError([(path, f"must hold {', '.join(names) or 'nothing'}, the state of {policy.name}")])
    bad = [name for name in names if not abs(values[name]) < float("inf")]
    if bad:
        raise ParameterError([(f"{path}.{name}", "must be a finite number") for name in bad])
    return {name: values[name] for name in names}
