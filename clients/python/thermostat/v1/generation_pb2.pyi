from google.protobuf import duration_pb2 as _duration_pb2
from thermostat.v1 import policy_pb2 as _policy_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
FINISH_REASON_CONTEXT_LENGTH: FinishReason
FINISH_REASON_ENTROPY_STOP: FinishReason
FINISH_REASON_EOS: FinishReason
FINISH_REASON_MAX_OUTPUT_TOKENS: FinishReason
FINISH_REASON_SCORED: FinishReason
FINISH_REASON_STOP_SEQUENCE: FinishReason
FINISH_REASON_STOP_TOKEN: FinishReason
FINISH_REASON_TIME_LIMIT: FinishReason
FINISH_REASON_UNSPECIFIED: FinishReason
SIGNAL_ACTION_NEXT_PHASE: SignalAction
SIGNAL_ACTION_REPORT: SignalAction
SIGNAL_ACTION_STOP: SignalAction
SIGNAL_ACTION_UNSPECIFIED: SignalAction
SIGNAL_KIND_ENTROPY_COLLAPSE: SignalKind
SIGNAL_KIND_ENTROPY_DROP: SignalKind
SIGNAL_KIND_ENTROPY_HIGH: SignalKind
SIGNAL_KIND_ENTROPY_RISE: SignalKind
SIGNAL_KIND_ENTROPY_SPIKE: SignalKind
SIGNAL_KIND_SATURATED: SignalKind
SIGNAL_KIND_UNSPECIFIED: SignalKind
TOP_H_VARIANT_HUGGING_FACE: TopHVariant
TOP_H_VARIANT_PAPER: TopHVariant
TOP_H_VARIANT_UNSPECIFIED: TopHVariant

class Candidate(_message.Message):
    __slots__ = ["filtered_logprob", "logprob", "token_bytes", "token_id"]
    FILTERED_LOGPROB_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    TOKEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    filtered_logprob: float
    logprob: float
    token_bytes: bytes
    token_id: int
    def __init__(self, token_id: _Optional[int] = ..., token_bytes: _Optional[bytes] = ..., logprob: _Optional[float] = ..., filtered_logprob: _Optional[float] = ...) -> None: ...

class Chat(_message.Message):
    __slots__ = ["add_generation_prompt", "messages"]
    ADD_GENERATION_PROMPT_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    add_generation_prompt: bool
    messages: _containers.RepeatedCompositeFieldContainer[ChatMessage]
    def __init__(self, messages: _Optional[_Iterable[_Union[ChatMessage, _Mapping]]] = ..., add_generation_prompt: bool = ...) -> None: ...

class ChatMessage(_message.Message):
    __slots__ = ["content", "role"]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    content: str
    role: str
    def __init__(self, role: _Optional[str] = ..., content: _Optional[str] = ...) -> None: ...

class Constraint(_message.Message):
    __slots__ = ["grammar", "json_schema", "regex"]
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    JSON_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    REGEX_FIELD_NUMBER: _ClassVar[int]
    grammar: str
    json_schema: str
    regex: str
    def __init__(self, json_schema: _Optional[str] = ..., regex: _Optional[str] = ..., grammar: _Optional[str] = ...) -> None: ...

class Distribution(_message.Message):
    __slots__ = ["max", "mean", "min", "p10", "p50", "p90", "p99"]
    MAX_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    MIN_FIELD_NUMBER: _ClassVar[int]
    P10_FIELD_NUMBER: _ClassVar[int]
    P50_FIELD_NUMBER: _ClassVar[int]
    P90_FIELD_NUMBER: _ClassVar[int]
    P99_FIELD_NUMBER: _ClassVar[int]
    max: float
    mean: float
    min: float
    p10: float
    p50: float
    p90: float
    p99: float
    def __init__(self, mean: _Optional[float] = ..., min: _Optional[float] = ..., max: _Optional[float] = ..., p10: _Optional[float] = ..., p50: _Optional[float] = ..., p90: _Optional[float] = ..., p99: _Optional[float] = ...) -> None: ...

class Filters(_message.Message):
    __slots__ = ["epsilon_cutoff", "eta_cutoff", "min_p", "p_less", "top_h", "top_h_variant", "top_k", "top_n_sigma", "top_p", "typical_p", "xtc_probability", "xtc_threshold"]
    EPSILON_CUTOFF_FIELD_NUMBER: _ClassVar[int]
    ETA_CUTOFF_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    P_LESS_FIELD_NUMBER: _ClassVar[int]
    TOP_H_FIELD_NUMBER: _ClassVar[int]
    TOP_H_VARIANT_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_N_SIGMA_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TYPICAL_P_FIELD_NUMBER: _ClassVar[int]
    XTC_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    XTC_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    epsilon_cutoff: float
    eta_cutoff: float
    min_p: float
    p_less: bool
    top_h: float
    top_h_variant: TopHVariant
    top_k: int
    top_n_sigma: float
    top_p: float
    typical_p: float
    xtc_probability: float
    xtc_threshold: float
    def __init__(self, top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., typical_p: _Optional[float] = ..., epsilon_cutoff: _Optional[float] = ..., eta_cutoff: _Optional[float] = ..., top_n_sigma: _Optional[float] = ..., top_h: _Optional[float] = ..., top_h_variant: _Optional[_Union[TopHVariant, str]] = ..., p_less: bool = ..., xtc_threshold: _Optional[float] = ..., xtc_probability: _Optional[float] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ["reason", "resume", "stop_sequence", "stop_token_id", "summary", "timing", "usage"]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    STOP_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    reason: FinishReason
    resume: Resume
    stop_sequence: str
    stop_token_id: int
    summary: Summary
    timing: Timing
    usage: Usage
    def __init__(self, reason: _Optional[_Union[FinishReason, str]] = ..., stop_sequence: _Optional[str] = ..., stop_token_id: _Optional[int] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., summary: _Optional[_Union[Summary, _Mapping]] = ..., resume: _Optional[_Union[Resume, _Mapping]] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ["chat", "constraint", "filters", "logit_bias", "model", "penalties", "policy", "response_options", "resume", "seed", "signals", "stopping", "text", "token_ids"]
    class LogitBiasEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: float
        def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...
    CHAT_FIELD_NUMBER: _ClassVar[int]
    CONSTRAINT_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PENALTIES_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SIGNALS_FIELD_NUMBER: _ClassVar[int]
    STOPPING_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    chat: Chat
    constraint: Constraint
    filters: Filters
    logit_bias: _containers.ScalarMap[int, float]
    model: str
    penalties: Penalties
    policy: _policy_pb2.Policy
    response_options: ResponseOptions
    resume: Resume
    seed: int
    signals: Signals
    stopping: Stopping
    text: str
    token_ids: TokenIds
    def __init__(self, model: _Optional[str] = ..., text: _Optional[str] = ..., token_ids: _Optional[_Union[TokenIds, _Mapping]] = ..., chat: _Optional[_Union[Chat, _Mapping]] = ..., policy: _Optional[_Union[_policy_pb2.Policy, _Mapping]] = ..., filters: _Optional[_Union[Filters, _Mapping]] = ..., penalties: _Optional[_Union[Penalties, _Mapping]] = ..., logit_bias: _Optional[_Mapping[int, float]] = ..., stopping: _Optional[_Union[Stopping, _Mapping]] = ..., seed: _Optional[int] = ..., response_options: _Optional[_Union[ResponseOptions, _Mapping]] = ..., resume: _Optional[_Union[Resume, _Mapping]] = ..., constraint: _Optional[_Union[Constraint, _Mapping]] = ..., signals: _Optional[_Union[Signals, _Mapping]] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ["finished", "output", "started"]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    finished: Finished
    output: Output
    started: Started
    def __init__(self, started: _Optional[_Union[Started, _Mapping]] = ..., output: _Optional[_Union[Output, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ...) -> None: ...

class Output(_message.Message):
    __slots__ = ["policy_state", "text_delta", "tokens"]
    POLICY_STATE_FIELD_NUMBER: _ClassVar[int]
    TEXT_DELTA_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    policy_state: _policy_pb2.PolicyState
    text_delta: str
    tokens: _containers.RepeatedCompositeFieldContainer[Token]
    def __init__(self, text_delta: _Optional[str] = ..., tokens: _Optional[_Iterable[_Union[Token, _Mapping]]] = ..., policy_state: _Optional[_Union[_policy_pb2.PolicyState, _Mapping]] = ...) -> None: ...

class Penalties(_message.Message):
    __slots__ = ["dry_allowed_length", "dry_base", "dry_multiplier", "dry_sequence_breakers", "dry_window", "frequency", "presence", "repetition"]
    DRY_ALLOWED_LENGTH_FIELD_NUMBER: _ClassVar[int]
    DRY_BASE_FIELD_NUMBER: _ClassVar[int]
    DRY_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    DRY_SEQUENCE_BREAKERS_FIELD_NUMBER: _ClassVar[int]
    DRY_WINDOW_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_FIELD_NUMBER: _ClassVar[int]
    REPETITION_FIELD_NUMBER: _ClassVar[int]
    dry_allowed_length: int
    dry_base: float
    dry_multiplier: float
    dry_sequence_breakers: _containers.RepeatedScalarFieldContainer[str]
    dry_window: int
    frequency: float
    presence: float
    repetition: float
    def __init__(self, repetition: _Optional[float] = ..., presence: _Optional[float] = ..., frequency: _Optional[float] = ..., dry_multiplier: _Optional[float] = ..., dry_base: _Optional[float] = ..., dry_allowed_length: _Optional[int] = ..., dry_window: _Optional[int] = ..., dry_sequence_breakers: _Optional[_Iterable[str]] = ...) -> None: ...

class ResponseOptions(_message.Message):
    __slots__ = ["candidates", "max_tokens_per_message", "sampling_info"]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_PER_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_INFO_FIELD_NUMBER: _ClassVar[int]
    candidates: int
    max_tokens_per_message: int
    sampling_info: bool
    def __init__(self, sampling_info: bool = ..., candidates: _Optional[int] = ..., max_tokens_per_message: _Optional[int] = ...) -> None: ...

class Resume(_message.Message):
    __slots__ = ["policy_state", "recent_entropy", "saturated_run", "token_ids"]
    POLICY_STATE_FIELD_NUMBER: _ClassVar[int]
    RECENT_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    SATURATED_RUN_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    policy_state: _policy_pb2.PolicyState
    recent_entropy: _containers.RepeatedScalarFieldContainer[float]
    saturated_run: int
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ..., policy_state: _Optional[_Union[_policy_pb2.PolicyState, _Mapping]] = ..., recent_entropy: _Optional[_Iterable[float]] = ..., saturated_run: _Optional[int] = ...) -> None: ...

class SamplingInfo(_message.Message):
    __slots__ = ["constraint_mass", "effective_vocab_size", "entropy_change", "final_entropy", "final_perplexity", "infeasible", "kept_mass", "min_p", "original_entropy", "original_top_prob", "original_vocab_size", "phase", "policy_state", "saturated", "scaled_entropy", "temperature", "top_k", "top_p", "top_token_prob", "varentropy"]
    CONSTRAINT_MASS_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_CHANGE_FIELD_NUMBER: _ClassVar[int]
    FINAL_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    FINAL_PERPLEXITY_FIELD_NUMBER: _ClassVar[int]
    INFEASIBLE_FIELD_NUMBER: _ClassVar[int]
    KEPT_MASS_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_TOP_PROB_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    POLICY_STATE_FIELD_NUMBER: _ClassVar[int]
    SATURATED_FIELD_NUMBER: _ClassVar[int]
    SCALED_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TOP_TOKEN_PROB_FIELD_NUMBER: _ClassVar[int]
    VARENTROPY_FIELD_NUMBER: _ClassVar[int]
    constraint_mass: float
    effective_vocab_size: int
    entropy_change: float
    final_entropy: float
    final_perplexity: float
    infeasible: bool
    kept_mass: float
    min_p: float
    original_entropy: float
    original_top_prob: float
    original_vocab_size: int
    phase: int
    policy_state: _policy_pb2.PolicyState
    saturated: bool
    scaled_entropy: float
    temperature: float
    top_k: int
    top_p: float
    top_token_prob: float
    varentropy: float
    def __init__(self, original_entropy: _Optional[float] = ..., final_entropy: _Optional[float] = ..., entropy_change: _Optional[float] = ..., effective_vocab_size: _Optional[int] = ..., original_vocab_size: _Optional[int] = ..., top_token_prob: _Optional[float] = ..., temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., varentropy: _Optional[float] = ..., scaled_entropy: _Optional[float] = ..., final_perplexity: _Optional[float] = ..., original_top_prob: _Optional[float] = ..., kept_mass: _Optional[float] = ..., saturated: bool = ..., infeasible: bool = ..., constraint_mass: _Optional[float] = ..., policy_state: _Optional[_Union[_policy_pb2.PolicyState, _Mapping]] = ..., phase: _Optional[int] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ["chat", "filters", "logit_bias", "model", "penalties", "policy", "prompt_tokens", "response_options", "signals", "text", "token_ids"]
    class LogitBiasEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: float
        def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...
    CHAT_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PENALTIES_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SIGNALS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    chat: Chat
    filters: Filters
    logit_bias: _containers.ScalarMap[int, float]
    model: str
    penalties: Penalties
    policy: _policy_pb2.Policy
    prompt_tokens: int
    response_options: ResponseOptions
    signals: Signals
    text: str
    token_ids: TokenIds
    def __init__(self, model: _Optional[str] = ..., text: _Optional[str] = ..., token_ids: _Optional[_Union[TokenIds, _Mapping]] = ..., chat: _Optional[_Union[Chat, _Mapping]] = ..., policy: _Optional[_Union[_policy_pb2.Policy, _Mapping]] = ..., filters: _Optional[_Union[Filters, _Mapping]] = ..., penalties: _Optional[_Union[Penalties, _Mapping]] = ..., logit_bias: _Optional[_Mapping[int, float]] = ..., response_options: _Optional[_Union[ResponseOptions, _Mapping]] = ..., prompt_tokens: _Optional[int] = ..., signals: _Optional[_Union[Signals, _Mapping]] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ["finished", "output", "started"]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    finished: Finished
    output: Output
    started: Started
    def __init__(self, started: _Optional[_Union[Started, _Mapping]] = ..., output: _Optional[_Union[Output, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ...) -> None: ...

class Signal(_message.Message):
    __slots__ = ["action", "kind", "threshold", "value"]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    action: SignalAction
    kind: SignalKind
    threshold: float
    value: float
    def __init__(self, kind: _Optional[_Union[SignalKind, str]] = ..., value: _Optional[float] = ..., threshold: _Optional[float] = ..., action: _Optional[_Union[SignalAction, str]] = ...) -> None: ...

class SignalRule(_message.Message):
    __slots__ = ["action", "kind", "threshold", "window"]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    action: SignalAction
    kind: SignalKind
    threshold: float
    window: int
    def __init__(self, kind: _Optional[_Union[SignalKind, str]] = ..., threshold: _Optional[float] = ..., window: _Optional[int] = ..., action: _Optional[_Union[SignalAction, str]] = ...) -> None: ...

class Signals(_message.Message):
    __slots__ = ["preset", "rules"]
    PRESET_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    preset: str
    rules: _containers.RepeatedCompositeFieldContainer[SignalRule]
    def __init__(self, preset: _Optional[str] = ..., rules: _Optional[_Iterable[_Union[SignalRule, _Mapping]]] = ...) -> None: ...

class Started(_message.Message):
    __slots__ = ["cached_tokens", "filters", "generation_id", "max_output_tokens", "model", "policy", "prompt_tokens", "queue_time", "seed"]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_ID_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_TIME_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    cached_tokens: int
    filters: Filters
    generation_id: str
    max_output_tokens: int
    model: str
    policy: _policy_pb2.Policy
    prompt_tokens: int
    queue_time: _duration_pb2.Duration
    seed: int
    def __init__(self, generation_id: _Optional[str] = ..., model: _Optional[str] = ..., policy: _Optional[_Union[_policy_pb2.Policy, _Mapping]] = ..., seed: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., max_output_tokens: _Optional[int] = ..., queue_time: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., filters: _Optional[_Union[Filters, _Mapping]] = ...) -> None: ...

class Stopping(_message.Message):
    __slots__ = ["ignore_eos", "max_output_tokens", "min_output_tokens", "stop_sequences", "stop_token_ids", "time_limit"]
    IGNORE_EOS_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MIN_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TIME_LIMIT_FIELD_NUMBER: _ClassVar[int]
    ignore_eos: bool
    max_output_tokens: int
    min_output_tokens: int
    stop_sequences: _containers.RepeatedScalarFieldContainer[str]
    stop_token_ids: _containers.RepeatedScalarFieldContainer[int]
    time_limit: _duration_pb2.Duration
    def __init__(self, max_output_tokens: _Optional[int] = ..., min_output_tokens: _Optional[int] = ..., stop_sequences: _Optional[_Iterable[str]] = ..., stop_token_ids: _Optional[_Iterable[int]] = ..., ignore_eos: bool = ..., time_limit: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Summary(_message.Message):
    __slots__ = ["bits_per_token", "final_entropy", "mean_surprisal", "original_entropy", "perplexity", "saturated_share", "temperature"]
    BITS_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FINAL_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    MEAN_SURPRISAL_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    PERPLEXITY_FIELD_NUMBER: _ClassVar[int]
    SATURATED_SHARE_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    bits_per_token: float
    final_entropy: Distribution
    mean_surprisal: float
    original_entropy: Distribution
    perplexity: float
    saturated_share: float
    temperature: Distribution
    def __init__(self, original_entropy: _Optional[_Union[Distribution, _Mapping]] = ..., final_entropy: _Optional[_Union[Distribution, _Mapping]] = ..., temperature: _Optional[_Union[Distribution, _Mapping]] = ..., mean_surprisal: _Optional[float] = ..., perplexity: _Optional[float] = ..., bits_per_token: _Optional[float] = ..., saturated_share: _Optional[float] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ["decode", "mean_gap", "prefill", "queue", "time_to_first_token"]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    MEAN_GAP_FIELD_NUMBER: _ClassVar[int]
    PREFILL_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_FIRST_TOKEN_FIELD_NUMBER: _ClassVar[int]
    decode: _duration_pb2.Duration
    mean_gap: _duration_pb2.Duration
    prefill: _duration_pb2.Duration
    queue: _duration_pb2.Duration
    time_to_first_token: _duration_pb2.Duration
    def __init__(self, queue: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., prefill: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., time_to_first_token: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., decode: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., mean_gap: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Token(_message.Message):
    __slots__ = ["candidates", "filtered_logprob", "index", "logprob", "rank", "sampling_info", "signals", "token_bytes", "token_id"]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    FILTERED_LOGPROB_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_INFO_FIELD_NUMBER: _ClassVar[int]
    SIGNALS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    filtered_logprob: float
    index: int
    logprob: float
    rank: int
    sampling_info: SamplingInfo
    signals: _containers.RepeatedCompositeFieldContainer[Signal]
    token_bytes: bytes
    token_id: int
    def __init__(self, index: _Optional[int] = ..., token_id: _Optional[int] = ..., token_bytes: _Optional[bytes] = ..., logprob: _Optional[float] = ..., filtered_logprob: _Optional[float] = ..., rank: _Optional[int] = ..., sampling_info: _Optional[_Union[SamplingInfo, _Mapping]] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., signals: _Optional[_Iterable[_Union[Signal, _Mapping]]] = ...) -> None: ...

class TokenIds(_message.Message):
    __slots__ = ["ids"]
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ["output_tokens", "prompt_tokens"]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    output_tokens: int
    prompt_tokens: int
    def __init__(self, prompt_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ...) -> None: ...

class SignalKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class SignalAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class TopHVariant(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
