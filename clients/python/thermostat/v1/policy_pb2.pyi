from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
ENTROPY_MEASURE_FINAL_ENTROPY: EntropyMeasure
ENTROPY_MEASURE_ORIGINAL_ENTROPY: EntropyMeasure
ENTROPY_MEASURE_SURPRISAL: EntropyMeasure
ENTROPY_MEASURE_UNSPECIFIED: EntropyMeasure
ENTROPY_NORMALIZER_NATS: EntropyNormalizer
ENTROPY_NORMALIZER_POSSIBLE: EntropyNormalizer
ENTROPY_NORMALIZER_UNSPECIFIED: EntropyNormalizer
ENTROPY_NORMALIZER_VOCABULARY: EntropyNormalizer
SURPRISE_MODEL: Surprise
SURPRISE_RENORMALIZED: Surprise
SURPRISE_UNSPECIFIED: Surprise

class AdaptivePPolicy(_message.Message):
    __slots__ = ["decay", "target", "temperature"]
    DECAY_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    decay: float
    target: float
    temperature: float
    def __init__(self, target: _Optional[float] = ..., decay: _Optional[float] = ..., temperature: _Optional[float] = ...) -> None: ...

class BellPolicy(_message.Message):
    __slots__ = ["base_temperature", "center", "max_temperature", "min_temperature", "peak", "width"]
    BASE_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    CENTER_FIELD_NUMBER: _ClassVar[int]
    MAX_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    MIN_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    PEAK_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    base_temperature: float
    center: float
    max_temperature: float
    min_temperature: float
    peak: float
    width: float
    def __init__(self, base_temperature: _Optional[float] = ..., peak: _Optional[float] = ..., center: _Optional[float] = ..., width: _Optional[float] = ..., min_temperature: _Optional[float] = ..., max_temperature: _Optional[float] = ...) -> None: ...

class EdtPolicy(_message.Message):
    __slots__ = ["base", "base_temperature", "max_temperature", "min_temperature", "theta"]
    BASE_FIELD_NUMBER: _ClassVar[int]
    BASE_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    MAX_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    MIN_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    THETA_FIELD_NUMBER: _ClassVar[int]
    base: float
    base_temperature: float
    max_temperature: float
    min_temperature: float
    theta: float
    def __init__(self, base_temperature: _Optional[float] = ..., theta: _Optional[float] = ..., base: _Optional[float] = ..., min_temperature: _Optional[float] = ..., max_temperature: _Optional[float] = ...) -> None: ...

class EntropyBandPolicy(_message.Message):
    __slots__ = ["exponent", "high_entropy", "low_entropy", "max_temperature", "min_temperature", "normalizer", "temperature_at_high", "temperature_at_low"]
    EXPONENT_FIELD_NUMBER: _ClassVar[int]
    HIGH_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    LOW_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    MAX_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    MIN_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    NORMALIZER_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_AT_HIGH_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_AT_LOW_FIELD_NUMBER: _ClassVar[int]
    exponent: float
    high_entropy: float
    low_entropy: float
    max_temperature: float
    min_temperature: float
    normalizer: EntropyNormalizer
    temperature_at_high: float
    temperature_at_low: float
    def __init__(self, low_entropy: _Optional[float] = ..., high_entropy: _Optional[float] = ..., temperature_at_low: _Optional[float] = ..., temperature_at_high: _Optional[float] = ..., exponent: _Optional[float] = ..., normalizer: _Optional[_Union[EntropyNormalizer, str]] = ..., min_temperature: _Optional[float] = ..., max_temperature: _Optional[float] = ...) -> None: ...

class EntropyEvent(_message.Message):
    __slots__ = ["above", "below", "tokens"]
    ABOVE_FIELD_NUMBER: _ClassVar[int]
    BELOW_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    above: float
    below: float
    tokens: int
    def __init__(self, above: _Optional[float] = ..., below: _Optional[float] = ..., tokens: _Optional[int] = ...) -> None: ...

class EntropyFeedbackPolicy(_message.Message):
    __slots__ = ["base_temperature", "half_life", "ki", "kp", "max_temperature", "measure", "min_temperature", "setpoint"]
    BASE_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    HALF_LIFE_FIELD_NUMBER: _ClassVar[int]
    KI_FIELD_NUMBER: _ClassVar[int]
    KP_FIELD_NUMBER: _ClassVar[int]
    MAX_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    MEASURE_FIELD_NUMBER: _ClassVar[int]
    MIN_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    SETPOINT_FIELD_NUMBER: _ClassVar[int]
    base_temperature: float
    half_life: float
    ki: float
    kp: float
    max_temperature: float
    measure: EntropyMeasure
    min_temperature: float
    setpoint: float
    def __init__(self, setpoint: _Optional[float] = ..., measure: _Optional[_Union[EntropyMeasure, str]] = ..., half_life: _Optional[float] = ..., kp: _Optional[float] = ..., ki: _Optional[float] = ..., base_temperature: _Optional[float] = ..., min_temperature: _Optional[float] = ..., max_temperature: _Optional[float] = ...) -> None: ...

class EntropyPolynomialPolicy(_message.Message):
    __slots__ = ["coefficient_0", "coefficient_1", "coefficient_2", "coefficient_3", "coefficient_4", "max_temperature", "min_temperature", "threshold"]
    COEFFICIENT_0_FIELD_NUMBER: _ClassVar[int]
    COEFFICIENT_1_FIELD_NUMBER: _ClassVar[int]
    COEFFICIENT_2_FIELD_NUMBER: _ClassVar[int]
    COEFFICIENT_3_FIELD_NUMBER: _ClassVar[int]
    COEFFICIENT_4_FIELD_NUMBER: _ClassVar[int]
    MAX_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    MIN_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    coefficient_0: float
    coefficient_1: float
    coefficient_2: float
    coefficient_3: float
    coefficient_4: float
    max_temperature: float
    min_temperature: float
    threshold: float
    def __init__(self, coefficient_4: _Optional[float] = ..., coefficient_3: _Optional[float] = ..., coefficient_2: _Optional[float] = ..., coefficient_1: _Optional[float] = ..., coefficient_0: _Optional[float] = ..., threshold: _Optional[float] = ..., min_temperature: _Optional[float] = ..., max_temperature: _Optional[float] = ...) -> None: ...

class FixedPolicy(_message.Message):
    __slots__ = ["temperature"]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    def __init__(self, temperature: _Optional[float] = ...) -> None: ...

class GreedyPolicy(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class MirostatPolicy(_message.Message):
    __slots__ = ["eta", "initial_mu", "surprise", "tau", "temperature"]
    ETA_FIELD_NUMBER: _ClassVar[int]
    INITIAL_MU_FIELD_NUMBER: _ClassVar[int]
    SURPRISE_FIELD_NUMBER: _ClassVar[int]
    TAU_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    eta: float
    initial_mu: float
    surprise: Surprise
    tau: float
    temperature: float
    def __init__(self, tau: _Optional[float] = ..., eta: _Optional[float] = ..., initial_mu: _Optional[float] = ..., surprise: _Optional[_Union[Surprise, str]] = ..., temperature: _Optional[float] = ...) -> None: ...

class Phase(_message.Message):
    __slots__ = ["entropy_event", "marker", "policy", "tokens"]
    ENTROPY_EVENT_FIELD_NUMBER: _ClassVar[int]
    MARKER_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    entropy_event: EntropyEvent
    marker: str
    policy: Policy
    tokens: int
    def __init__(self, policy: _Optional[_Union[Policy, _Mapping]] = ..., marker: _Optional[str] = ..., tokens: _Optional[int] = ..., entropy_event: _Optional[_Union[EntropyEvent, _Mapping]] = ...) -> None: ...

class PhasedPolicy(_message.Message):
    __slots__ = ["phases"]
    PHASES_FIELD_NUMBER: _ClassVar[int]
    phases: _containers.RepeatedCompositeFieldContainer[Phase]
    def __init__(self, phases: _Optional[_Iterable[_Union[Phase, _Mapping]]] = ...) -> None: ...

class PluginPolicy(_message.Message):
    __slots__ = ["name", "parameters"]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    parameters: _struct_pb2.Struct
    def __init__(self, name: _Optional[str] = ..., parameters: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class Policy(_message.Message):
    __slots__ = ["adaptive_p", "bell", "edt", "entropy_band", "entropy_feedback", "entropy_polynomial", "fixed", "greedy", "mirostat", "phased", "plugin", "preset", "quadrant", "target_entropy"]
    ADAPTIVE_P_FIELD_NUMBER: _ClassVar[int]
    BELL_FIELD_NUMBER: _ClassVar[int]
    EDT_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_BAND_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_FEEDBACK_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_POLYNOMIAL_FIELD_NUMBER: _ClassVar[int]
    FIXED_FIELD_NUMBER: _ClassVar[int]
    GREEDY_FIELD_NUMBER: _ClassVar[int]
    MIROSTAT_FIELD_NUMBER: _ClassVar[int]
    PHASED_FIELD_NUMBER: _ClassVar[int]
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    PRESET_FIELD_NUMBER: _ClassVar[int]
    QUADRANT_FIELD_NUMBER: _ClassVar[int]
    TARGET_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    adaptive_p: AdaptivePPolicy
    bell: BellPolicy
    edt: EdtPolicy
    entropy_band: EntropyBandPolicy
    entropy_feedback: EntropyFeedbackPolicy
    entropy_polynomial: EntropyPolynomialPolicy
    fixed: FixedPolicy
    greedy: GreedyPolicy
    mirostat: MirostatPolicy
    phased: PhasedPolicy
    plugin: PluginPolicy
    preset: PresetPolicy
    quadrant: QuadrantPolicy
    target_entropy: TargetEntropyPolicy
    def __init__(self, fixed: _Optional[_Union[FixedPolicy, _Mapping]] = ..., greedy: _Optional[_Union[GreedyPolicy, _Mapping]] = ..., entropy_band: _Optional[_Union[EntropyBandPolicy, _Mapping]] = ..., edt: _Optional[_Union[EdtPolicy, _Mapping]] = ..., target_entropy: _Optional[_Union[TargetEntropyPolicy, _Mapping]] = ..., entropy_feedback: _Optional[_Union[EntropyFeedbackPolicy, _Mapping]] = ..., mirostat: _Optional[_Union[MirostatPolicy, _Mapping]] = ..., quadrant: _Optional[_Union[QuadrantPolicy, _Mapping]] = ..., adaptive_p: _Optional[_Union[AdaptivePPolicy, _Mapping]] = ..., bell: _Optional[_Union[BellPolicy, _Mapping]] = ..., entropy_polynomial: _Optional[_Union[EntropyPolynomialPolicy, _Mapping]] = ..., phased: _Optional[_Union[PhasedPolicy, _Mapping]] = ..., plugin: _Optional[_Union[PluginPolicy, _Mapping]] = ..., preset: _Optional[_Union[PresetPolicy, _Mapping]] = ...) -> None: ...

class PolicyState(_message.Message):
    __slots__ = ["phases", "policy", "values"]
    class ValuesEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    PHASES_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    phases: _containers.RepeatedCompositeFieldContainer[PolicyState]
    policy: str
    values: _containers.ScalarMap[str, float]
    def __init__(self, policy: _Optional[str] = ..., values: _Optional[_Mapping[str, float]] = ..., phases: _Optional[_Iterable[_Union[PolicyState, _Mapping]]] = ...) -> None: ...

class PresetPolicy(_message.Message):
    __slots__ = ["name"]
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class QuadrantPolicy(_message.Message):
    __slots__ = ["entropy_gain", "high_entropy", "high_high_min_p", "high_high_temperature", "high_high_top_k", "high_high_top_p", "high_low_min_p", "high_low_temperature", "high_low_top_k", "high_low_top_p", "high_varentropy", "low_entropy", "low_high_min_p", "low_high_temperature", "low_high_top_k", "low_high_top_p", "low_low_min_p", "low_low_temperature", "low_low_top_k", "low_low_top_p", "low_varentropy", "max_temperature", "min_p", "min_temperature", "temperature", "top_k", "top_p", "varentropy_gain"]
    ENTROPY_GAIN_FIELD_NUMBER: _ClassVar[int]
    HIGH_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    HIGH_HIGH_MIN_P_FIELD_NUMBER: _ClassVar[int]
    HIGH_HIGH_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    HIGH_HIGH_TOP_K_FIELD_NUMBER: _ClassVar[int]
    HIGH_HIGH_TOP_P_FIELD_NUMBER: _ClassVar[int]
    HIGH_LOW_MIN_P_FIELD_NUMBER: _ClassVar[int]
    HIGH_LOW_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    HIGH_LOW_TOP_K_FIELD_NUMBER: _ClassVar[int]
    HIGH_LOW_TOP_P_FIELD_NUMBER: _ClassVar[int]
    HIGH_VARENTROPY_FIELD_NUMBER: _ClassVar[int]
    LOW_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    LOW_HIGH_MIN_P_FIELD_NUMBER: _ClassVar[int]
    LOW_HIGH_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    LOW_HIGH_TOP_K_FIELD_NUMBER: _ClassVar[int]
    LOW_HIGH_TOP_P_FIELD_NUMBER: _ClassVar[int]
    LOW_LOW_MIN_P_FIELD_NUMBER: _ClassVar[int]
    LOW_LOW_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    LOW_LOW_TOP_K_FIELD_NUMBER: _ClassVar[int]
    LOW_LOW_TOP_P_FIELD_NUMBER: _ClassVar[int]
    LOW_VARENTROPY_FIELD_NUMBER: _ClassVar[int]
    MAX_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    MIN_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    VARENTROPY_GAIN_FIELD_NUMBER: _ClassVar[int]
    entropy_gain: float
    high_entropy: float
    high_high_min_p: float
    high_high_temperature: float
    high_high_top_k: int
    high_high_top_p: float
    high_low_min_p: float
    high_low_temperature: float
    high_low_top_k: int
    high_low_top_p: float
    high_varentropy: float
    low_entropy: float
    low_high_min_p: float
    low_high_temperature: float
    low_high_top_k: int
    low_high_top_p: float
    low_low_min_p: float
    low_low_temperature: float
    low_low_top_k: int
    low_low_top_p: float
    low_varentropy: float
    max_temperature: float
    min_p: float
    min_temperature: float
    temperature: float
    top_k: int
    top_p: float
    varentropy_gain: float
    def __init__(self, low_entropy: _Optional[float] = ..., high_entropy: _Optional[float] = ..., low_varentropy: _Optional[float] = ..., high_varentropy: _Optional[float] = ..., temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., low_low_temperature: _Optional[float] = ..., low_low_top_k: _Optional[int] = ..., low_low_top_p: _Optional[float] = ..., low_low_min_p: _Optional[float] = ..., low_high_temperature: _Optional[float] = ..., low_high_top_k: _Optional[int] = ..., low_high_top_p: _Optional[float] = ..., low_high_min_p: _Optional[float] = ..., high_low_temperature: _Optional[float] = ..., high_low_top_k: _Optional[int] = ..., high_low_top_p: _Optional[float] = ..., high_low_min_p: _Optional[float] = ..., high_high_temperature: _Optional[float] = ..., high_high_top_k: _Optional[int] = ..., high_high_top_p: _Optional[float] = ..., high_high_min_p: _Optional[float] = ..., entropy_gain: _Optional[float] = ..., varentropy_gain: _Optional[float] = ..., min_temperature: _Optional[float] = ..., max_temperature: _Optional[float] = ...) -> None: ...

class TargetEntropyPolicy(_message.Message):
    __slots__ = ["max_temperature", "min_temperature", "target_entropy"]
    MAX_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    MIN_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TARGET_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    max_temperature: float
    min_temperature: float
    target_entropy: float
    def __init__(self, target_entropy: _Optional[float] = ..., min_temperature: _Optional[float] = ..., max_temperature: _Optional[float] = ...) -> None: ...

class EntropyNormalizer(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class EntropyMeasure(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class Surprise(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
