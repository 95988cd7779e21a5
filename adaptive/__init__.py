"""Entropy-aware sampling for language models, in pure torch. Usable without the server."""

from adaptive.entropy import entropy, varentropy
from adaptive.filters import Filters, apply_min_p, apply_temperature, apply_top_k, apply_top_p
from adaptive.info import Choice, SamplingInfo, unpack
from adaptive.parameters import ParameterError
from adaptive.policies import POLICIES, Edt, EntropyBand, Fixed, Greedy, Policy, TargetEntropy
from adaptive.sampler import Rows, RowSettings, get_sampling_info, step

__all__ = [
    "POLICIES",
    "Choice",
    "Edt",
    "EntropyBand",
    "Filters",
    "Fixed",
    "Greedy",
    "ParameterError",
    "Policy",
    "RowSettings",
    "Rows",
    "SamplingInfo",
    "TargetEntropy",
    "apply_min_p",
    "apply_temperature",
    "apply_top_k",
    "apply_top_p",
    "entropy",
    "get_sampling_info",
    "step",
    "unpack",
    "varentropy",
]
