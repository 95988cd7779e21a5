"""Policies: how the temperature of a step follows from its original entropy. One file a policy."""

from adaptive.policies.base import Columns, Control, Policy
from adaptive.policies.edt import Edt
from adaptive.policies.entropy_band import EntropyBand
from adaptive.policies.fixed import Fixed
from adaptive.policies.greedy import Greedy
from adaptive.policies.target_entropy import TargetEntropy

POLICIES: dict[str, type[Policy]] = {kind.name: kind for kind in (Fixed, Greedy, EntropyBand, Edt, TargetEntropy)}
"""Every policy by its name, in the order of the wire."""

__all__ = ["POLICIES", "Columns", "Control", "Edt", "EntropyBand", "Fixed", "Greedy", "Policy", "TargetEntropy"]
