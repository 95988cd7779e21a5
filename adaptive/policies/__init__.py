"""Policies: how the temperature of a step follows from its original entropy. One file a policy."""

from adaptive.policies.adaptive_p import AdaptiveP
from adaptive.policies.base import Columns, Control, Outcome, Policy, StateValue
from adaptive.policies.bell import Bell
from adaptive.policies.edt import Edt
from adaptive.policies.entropy_band import EntropyBand
from adaptive.policies.entropy_feedback import EntropyFeedback
from adaptive.policies.entropy_polynomial import EntropyPolynomial
from adaptive.policies.fixed import Fixed
from adaptive.policies.greedy import Greedy
from adaptive.policies.mirostat import Mirostat
from adaptive.policies.phased import Course, EntropyEvent, Phase, Phased, PolicyState
from adaptive.policies.quadrant import Quadrant
from adaptive.policies.target_entropy import TargetEntropy

POLICIES: dict[str, type[Policy]] = {
    kind.name: kind
    for kind in (
        Fixed,
        Greedy,
        EntropyBand,
        Edt,
        TargetEntropy,
        EntropyFeedback,
        Mirostat,
        Quadrant,
        AdaptiveP,
        Bell,
        EntropyPolynomial,
        Phased,
    )
}
"""Every policy by its name, in the order of the wire."""

__all__ = [
    "POLICIES",
    "AdaptiveP",
    "Bell",
    "Columns",
    "Control",
    "Course",
    "Edt",
    "EntropyBand",
    "EntropyEvent",
    "EntropyFeedback",
    "EntropyPolynomial",
    "Fixed",
    "Greedy",
    "Mirostat",
    "Outcome",
    "Phase",
    "Phased",
    "Policy",
    "PolicyState",
    "Quadrant",
    "StateValue",
    "TargetEntropy",
]
