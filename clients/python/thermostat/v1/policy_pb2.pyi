from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
ENTROPY_NORMALIZER_NATS: EntropyNormalizer
ENTROPY_NORMALIZER_POSSIBLE: EntropyNormalizer
ENTROPY_NORMALIZER_UNSPECIFIED: EntropyNormalizer
ENTROPY_NORMALIZER_VOCABULARY: EntropyNormalizer

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
    __slots__ = ["exponent", "high_entropy", "low_entropy", "normalizer", "temperature_at_high", "temperature_at_low"]
    EXPONENT_FIELD_NUMBER: _ClassVar[int]
    HIGH_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    LOW_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    NORMALIZER_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_AT_HIGH_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_AT_LOW_FIELD_NUMBER: _ClassVar[int]
    exponent: float
    high_entropy: float
    low_entropy: float
    normalizer: EntropyNormalizer
    temperature_at_high: float
    temperature_at_low: float
    def __init__(self, low_entropy: _Optional[float] = ..., high_entropy: _Optional[float] = ..., temperature_at_low: _Optional[float] = ..., temperature_at_high: _Optional[float] = ..., exponent: _Optional[float] = ..., normalizer: _Optional[_Union[EntropyNormalizer, str]] = ...) -> None: ...

class FixedPolicy(_message.Message):
    __slots__ = ["temperature"]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    def __init__(self, temperature: _Optional[float] = ...) -> None: ...

class GreedyPolicy(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class Policy(_message.Message):
    __slots__ = ["edt", "entropy_band", "fixed", "greedy", "target_entropy"]
    EDT_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_BAND_FIELD_NUMBER: _ClassVar[int]
    FIXED_FIELD_NUMBER: _ClassVar[int]
    GREEDY_FIELD_NUMBER: _ClassVar[int]
    TARGET_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    edt: EdtPolicy
    entropy_band: EntropyBandPolicy
    fixed: FixedPolicy
    greedy: GreedyPolicy
    target_entropy: TargetEntropyPolicy
    def __init__(self, fixed: _Optional[_Union[FixedPolicy, _Mapping]] = ..., greedy: _Optional[_Union[GreedyPolicy, _Mapping]] = ..., entropy_band: _Optional[_Union[EntropyBandPolicy, _Mapping]] = ..., edt: _Optional[_Union[EdtPolicy, _Mapping]] = ..., target_entropy: _Optional[_Union[TargetEntropyPolicy, _Mapping]] = ...) -> None: ...

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
