"""Entropy-aware sampling for language models, in torch. Usable without the server."""

from adaptive.accelerator import compile_sampler
from adaptive.apply import (
    apply_epsilon,
    apply_eta,
    apply_min_p,
    apply_p_less,
    apply_temperature,
    apply_top_h,
    apply_top_k,
    apply_top_n_sigma,
    apply_top_p,
    apply_typical_p,
    apply_xtc,
)
from adaptive.cpu.library import CannotCompile
from adaptive.entropy import entropy, varentropy
from adaptive.filters import Filters
from adaptive.info import Choice, Fault, Report, SamplingInfo
from adaptive.parameters import ParameterError
from adaptive.penalties import History, Penalties
from adaptive.policies import (
    POLICIES,
    AdaptiveP,
    Bell,
    Course,
    Edt,
    EntropyBand,
    EntropyEvent,
    EntropyFeedback,
    EntropyPolynomial,
    Fixed,
    Greedy,
    Mirostat,
    Phase,
    Phased,
    Policy,
    PolicyState,
    Quadrant,
    TargetEntropy,
)
from adaptive.presets import PRESETS, Preset
from adaptive.rows import Rows, RowSettings
from adaptive.sampler import Masks, get_sampling_info, step

__all__ = [
    "POLICIES",
    "PRESETS",
    "AdaptiveP",
    "Bell",
    "CannotCompile",
    "Choice",
    "Course",
    "Edt",
    "EntropyBand",
    "EntropyEvent",
    "EntropyFeedback",
    "EntropyPolynomial",
    "Fault",
    "Filters",
    "Fixed",
    "Greedy",
    "History",
    "Masks",
    "Mirostat",
    "ParameterError",
    "Penalties",
    "Phase",
    "Phased",
    "Policy",
    "PolicyState",
    "Preset",
    "Quadrant",
    "Report",
    "RowSettings",
    "Rows",
    "SamplingInfo",
    "TargetEntropy",
    "apply_epsilon",
    "apply_eta",
    "apply_min_p",
    "apply_p_less",
    "apply_temperature",
    "apply_top_h",
    "apply_top_k",
    "apply_top_n_sigma",
    "apply_top_p",
    "apply_typical_p",
    "apply_xtc",
    "compile_sampler",
    "entropy",
    "get_sampling_info",
    "step",
    "varentropy",
]
