from thermostat.v1 import generation_pb2 as _generation_pb2
from thermostat.v1 import policy_pb2 as _policy_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CountTokensRequest(_message.Message):
    __slots__ = ["chat", "model", "text", "token_ids"]
    CHAT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    chat: _generation_pb2.Chat
    model: str
    text: str
    token_ids: _generation_pb2.TokenIds
    def __init__(self, model: _Optional[str] = ..., text: _Optional[str] = ..., token_ids: _Optional[_Union[_generation_pb2.TokenIds, _Mapping]] = ..., chat: _Optional[_Union[_generation_pb2.Chat, _Mapping]] = ...) -> None: ...

class CountTokensResponse(_message.Message):
    __slots__ = ["token_count", "token_ids"]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    token_count: int
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, token_count: _Optional[int] = ..., token_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ["model"]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ["model"]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class ListPoliciesRequest(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class ListPoliciesResponse(_message.Message):
    __slots__ = ["policies", "presets"]
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    PRESETS_FIELD_NUMBER: _ClassVar[int]
    policies: _containers.RepeatedCompositeFieldContainer[PolicyDescription]
    presets: _containers.RepeatedCompositeFieldContainer[PresetDescription]
    def __init__(self, policies: _Optional[_Iterable[_Union[PolicyDescription, _Mapping]]] = ..., presets: _Optional[_Iterable[_Union[PresetDescription, _Mapping]]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ["architecture", "context_length", "device", "dtype", "eos_token_ids", "has_chat_template", "kv_cache_tokens", "max_queue", "max_rows", "name", "parameters", "server_version", "vocab_size"]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    EOS_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    HAS_CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    KV_CACHE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_FIELD_NUMBER: _ClassVar[int]
    MAX_ROWS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    architecture: str
    context_length: int
    device: str
    dtype: str
    eos_token_ids: _containers.RepeatedScalarFieldContainer[int]
    has_chat_template: bool
    kv_cache_tokens: int
    max_queue: int
    max_rows: int
    name: str
    parameters: int
    server_version: str
    vocab_size: int
    def __init__(self, name: _Optional[str] = ..., architecture: _Optional[str] = ..., parameters: _Optional[int] = ..., vocab_size: _Optional[int] = ..., context_length: _Optional[int] = ..., dtype: _Optional[str] = ..., device: _Optional[str] = ..., eos_token_ids: _Optional[_Iterable[int]] = ..., has_chat_template: bool = ..., max_rows: _Optional[int] = ..., max_queue: _Optional[int] = ..., kv_cache_tokens: _Optional[int] = ..., server_version: _Optional[str] = ...) -> None: ...

class ParameterDescription(_message.Message):
    __slots__ = ["choice", "choices", "help", "integer", "maximum", "minimum", "minimum_excluded", "name", "number", "unit"]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    HELP_FIELD_NUMBER: _ClassVar[int]
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_EXCLUDED_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    choice: str
    choices: _containers.RepeatedScalarFieldContainer[str]
    help: str
    integer: bool
    maximum: float
    minimum: float
    minimum_excluded: bool
    name: str
    number: float
    unit: str
    def __init__(self, name: _Optional[str] = ..., help: _Optional[str] = ..., unit: _Optional[str] = ..., number: _Optional[float] = ..., choice: _Optional[str] = ..., minimum: _Optional[float] = ..., minimum_excluded: bool = ..., maximum: _Optional[float] = ..., choices: _Optional[_Iterable[str]] = ..., integer: bool = ...) -> None: ...

class PolicyDescription(_message.Message):
    __slots__ = ["name", "parameters", "plugin", "state", "summary"]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    name: str
    parameters: _containers.RepeatedCompositeFieldContainer[ParameterDescription]
    plugin: bool
    state: _containers.RepeatedCompositeFieldContainer[StateDescription]
    summary: str
    def __init__(self, name: _Optional[str] = ..., summary: _Optional[str] = ..., parameters: _Optional[_Iterable[_Union[ParameterDescription, _Mapping]]] = ..., state: _Optional[_Iterable[_Union[StateDescription, _Mapping]]] = ..., plugin: bool = ...) -> None: ...

class PresetDescription(_message.Message):
    __slots__ = ["filters", "name", "policy", "summary"]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    filters: _generation_pb2.Filters
    name: str
    policy: _policy_pb2.Policy
    summary: str
    def __init__(self, name: _Optional[str] = ..., summary: _Optional[str] = ..., policy: _Optional[_Union[_policy_pb2.Policy, _Mapping]] = ..., filters: _Optional[_Union[_generation_pb2.Filters, _Mapping]] = ...) -> None: ...

class StateDescription(_message.Message):
    __slots__ = ["help", "name", "unit"]
    HELP_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    help: str
    name: str
    unit: str
    def __init__(self, name: _Optional[str] = ..., help: _Optional[str] = ..., unit: _Optional[str] = ...) -> None: ...
