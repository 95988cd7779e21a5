"""Policies: how the server sets the temperature of each step. One frozen dataclass for each arm of `Policy`.

Parameters stand in the order of the contract; None means unset, and the server's default holds. What each parameter
means, its unit and its range: protos/thermostat/v1/policy.proto, or `thermostat policies`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeAlias

from thermostat.v1 import policy_pb2
from thermostat.words import build, parse_policy


class Policy:
    """Base of the policies. Pass one as `policy=` to a client."""

    def to_proto(self) -> policy_pb2.Policy:
        """The message. ValueError for something that the contract lacks."""
        raise NotImplementedError  # each policy has its own


@dataclass(frozen=True)
class _Plain(Policy):
    """A policy whose parameters are numbers and choices."""

    name: ClassVar[str]
    """The policy's field in the `Policy` message."""

    def to_proto(self) -> policy_pb2.Policy:
        """The message; parameters that are None stay unset. ValueError for a choice that the contract lacks."""
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        return build(self.name, {name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class Fixed(_Plain):
    """The same temperature at every step."""

    name: ClassVar[str] = "fixed"
    temperature: float | None = None


@dataclass(frozen=True)
class Greedy(_Plain):
    """Always the most likely token."""

    name: ClassVar[str] = "greedy"


@dataclass(frozen=True)
class EntropyBand(_Plain):
    """A ramp of temperature over a band of entropy; normalizer is "nats", "vocabulary" or "possible"."""

    name: ClassVar[str] = "entropy_band"
    low_entropy: float | None = None
    high_entropy: float | None = None
    temperature_at_low: float | None = None
    temperature_at_high: float | None = None
    exponent: float | None = None
    normalizer: str | None = None
    min_temperature: float | None = None
    max_temperature: float | None = None


@dataclass(frozen=True)
class Edt(_Plain):
    """Entropy-based dynamic temperature, base_temperature * base ** (theta / entropy); theta in nats."""

    name: ClassVar[str] = "edt"
    base_temperature: float | None = None
    theta: float | None = None
    base: float | None = None
    min_temperature: float | None = None
    max_temperature: float | None = None


@dataclass(frozen=True)
class TargetEntropy(_Plain):
    """The temperature at which the distribution has `target_entropy` nats, solved at every step."""

    name: ClassVar[str] = "target_entropy"
    target_entropy: float | None = None
    min_temperature: float | None = None
    max_temperature: float | None = None


@dataclass(frozen=True)
class EntropyFeedback(_Plain):
    """A controller that holds `measure` ("final_entropy", "original_entropy" or "surprisal") at a setpoint in nats."""

    name: ClassVar[str] = "entropy_feedback"
    setpoint: float | None = None
    measure: str | None = None
    half_life: float | None = None
    kp: float | None = None
    ki: float | None = None
    base_temperature: float | None = None
    min_temperature: float | None = None
    max_temperature: float | None = None


@dataclass(frozen=True)
class Mirostat(_Plain):
    """Mirostat v2, in nats; surprise is "model" (the paper) or "renormalized" (llama.cpp)."""

    name: ClassVar[str] = "mirostat"
    tau: float | None = None
    eta: float | None = None
    initial_mu: float | None = None
    surprise: str | None = None
    temperature: float | None = None


@dataclass(frozen=True)
class Quadrant(_Plain):
    """Four actions in the corners of entropy and varentropy, and a plain one between them."""

    name: ClassVar[str] = "quadrant"
    low_entropy: float | None = None
    high_entropy: float | None = None
    low_varentropy: float | None = None
    high_varentropy: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    low_low_temperature: float | None = None
    low_low_top_k: int | None = None
    low_low_top_p: float | None = None
    low_low_min_p: float | None = None
    low_high_temperature: float | None = None
    low_high_top_k: int | None = None
    low_high_top_p: float | None = None
    low_high_min_p: float | None = None
    high_low_temperature: float | None = None
    high_low_top_k: int | None = None
    high_low_top_p: float | None = None
    high_low_min_p: float | None = None
    high_high_temperature: float | None = None
    high_high_top_k: int | None = None
    high_high_top_p: float | None = None
    high_high_min_p: float | None = None
    entropy_gain: float | None = None
    varentropy_gain: float | None = None
    min_temperature: float | None = None
    max_temperature: float | None = None


@dataclass(frozen=True)
class AdaptiveP(_Plain):
    """Prefers tokens whose probability is near a target that adapts to what was drawn."""

    name: ClassVar[str] = "adaptive_p"
    target: float | None = None
    decay: float | None = None
    temperature: float | None = None


@dataclass(frozen=True)
class Bell(_Plain):
    """A bell of temperature around a chosen entropy, a share of ln(vocabulary size)."""

    name: ClassVar[str] = "bell"
    base_temperature: float | None = None
    peak: float | None = None
    center: float | None = None
    width: float | None = None
    min_temperature: float | None = None
    max_temperature: float | None = None


@dataclass(frozen=True)
class EntropyPolynomial(_Plain):
    """Sharpens where entropy is high, by a polynomial (arXiv 2410.01104)."""

    name: ClassVar[str] = "entropy_polynomial"
    coefficient_4: float | None = None
    coefficient_3: float | None = None
    coefficient_2: float | None = None
    coefficient_1: float | None = None
    coefficient_0: float | None = None
    threshold: float | None = None
    min_temperature: float | None = None
    max_temperature: float | None = None


@dataclass(frozen=True)
class EntropyEvent:
    """Ends a phase: the original entropy is at least `above`, or at most `below`, nats, for `tokens` in a row."""

    above: float | None = None
    below: float | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class Phase:
    """A policy, and until when it lasts: a marker in the text (str), a number of tokens (int), an EntropyEvent, or,
    for the last phase, None."""

    policy: PolicyLike
    until: str | int | EntropyEvent | None = None


@dataclass(frozen=True)
class Phased(Policy):
    """One policy after another: `Phased([Phase(Fixed(1.2), "</think>"), Phase(Fixed(0.6))])`."""

    phases: Sequence[Phase] = ()

    def to_proto(self) -> policy_pb2.Policy:
        message = policy_pb2.Policy(phased=policy_pb2.PhasedPolicy())
        for phase in self.phases:
            added = message.phased.phases.add(policy=to_message(phase.policy))
            if isinstance(phase.until, str):
                added.marker = phase.until
            elif isinstance(phase.until, EntropyEvent):
                given = {name: value for name, value in vars(phase.until).items() if value is not None}
                added.entropy_event.CopyFrom(policy_pb2.EntropyEvent(**given))
            elif phase.until is not None:
                added.tokens = phase.until
        return message


@dataclass(frozen=True)
class Plugin(Policy):
    """A policy that a package adds to the server; `parameters` are numbers, and words for choices."""

    name: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def to_proto(self) -> policy_pb2.Policy:
        message = policy_pb2.Policy(plugin=policy_pb2.PluginPolicy(name=self.name))
        message.plugin.parameters.update(dict(self.parameters))
        return message


@dataclass(frozen=True)
class Preset(Policy):
    """Settings known by a name, such as `Preset("mirostat2.llamacpp")`; `thermostat policies` lists them."""

    name: str = ""

    def to_proto(self) -> policy_pb2.Policy:
        return policy_pb2.Policy(preset=policy_pb2.PresetPolicy(name=self.name))


PolicyLike: TypeAlias = "Policy | policy_pb2.Policy | str"
"""A dataclass of this module, the message itself, or the words that `parse_policy` reads."""


def to_message(policy: PolicyLike) -> policy_pb2.Policy:
    """The `Policy` message of anything that names a policy."""
    if isinstance(policy, str):
        return parse_policy(policy)
    return policy.to_proto() if isinstance(policy, Policy) else policy
