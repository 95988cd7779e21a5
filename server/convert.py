"""Protobuf to the engine's words and back. The only module that knows both."""

import math
import re
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np

from adaptive import POLICIES, Filters, ParameterError, Policy, SamplingInfo
from adaptive.parameters import Parameter
from adaptive.policies import Fixed
from server.engine.detokenizer import TokenBytes
from server.engine.events import Drawn, Finished, FinishReason, Record, Started
from server.engine.request import GenerationRequest, Stopping
from server.errors import Violation
from thermostat.v1 import generation_pb2, model_pb2, policy_pb2

MOST_CANDIDATES = 20
MOST_TOKENS_PER_MESSAGE = 256
MOST_STOP_SEQUENCES = 16
LONGEST_STOP_SEQUENCE = 256
MOST_STOP_TOKENS = 256

Violations = list[Violation]


# Requests.


def read_policy(message: policy_pb2.Policy, path: str, violations: Violations) -> Policy:
    """The policy of a request; what is wrong goes to `violations`."""
    arm = message.WhichOneof("kind")
    if arm is None:
        return Fixed()
    kind, chosen = POLICIES[arm], getattr(message, arm)
    settings = {}
    for parameter in kind.parameters():
        if parameter.choices:
            number = getattr(chosen, parameter.name)
            if number == 0:
                continue
            words = _enum_words(chosen, parameter.name)
            settings[parameter.name] = words.get(number, str(number))
        elif chosen.HasField(parameter.name):
            settings[parameter.name] = getattr(chosen, parameter.name)
    try:
        return kind(**settings)
    except ParameterError as error:
        violations.extend(Violation(f"{path}.{arm}.{name}", allowed) for name, allowed in error.violations)
        return Fixed()


def read_filters(message: generation_pb2.Filters, path: str, violations: Violations) -> Filters:
    """The filters of a request."""
    given = {name: getattr(message, name) for name in ("top_k", "top_p", "min_p") if message.HasField(name)}
    try:
        return Filters(**given)
    except ParameterError as error:
        violations.extend(Violation(f"{path}.{name}", allowed) for name, allowed in error.violations)
        return Filters()


def read_stopping(message: generation_pb2.Stopping, vocab_size: int, path: str, violations: Violations) -> Stopping:
    """The stopping rules of a request."""

    def violated(field: str, allowed: str) -> None:
        violations.append(Violation(f"{path}.{field}", allowed))

    default = Stopping()
    most = message.max_output_tokens if message.HasField("max_output_tokens") else default.max_output_tokens
    least = message.min_output_tokens
    if most < 1:
        violated("max_output_tokens", "must be at least 1")
    if not 0 <= least <= max(most, 0):
        violated("min_output_tokens", f"must be from 0 to max_output_tokens, which is {most}")
    sequences = message.stop_sequences
    if len(sequences) > MOST_STOP_SEQUENCES:
        violated("stop_sequences", f"must be at most {MOST_STOP_SEQUENCES}")
    for i, sequence in enumerate(sequences[:MOST_STOP_SEQUENCES]):
        if not 1 <= len(sequence) <= LONGEST_STOP_SEQUENCE:
            violated(f"stop_sequences[{i}]", f"must have 1 to {LONGEST_STOP_SEQUENCE} characters")
    tokens = message.stop_token_ids
    if len(tokens) > MOST_STOP_TOKENS:
        violated("stop_token_ids", f"must be at most {MOST_STOP_TOKENS}")
    for i, token in enumerate(tokens[:MOST_STOP_TOKENS]):
        if not 0 <= token < vocab_size:
            violated(f"stop_token_ids[{i}]", f"must be from 0 to {vocab_size - 1}")
    limit = None
    if message.HasField("time_limit"):
        limit = message.time_limit.seconds + message.time_limit.nanos * 1e-9
        if not limit > 0:
            violated("time_limit", "must be above 0")
    return Stopping(most, least, tuple(sequences), tuple(tokens), message.ignore_eos, limit)


def read_request(message: generation_pb2.GenerateRequest, vocab_size: int, violations: Violations) -> dict[str, Any]:
    """All of a GenerateRequest but its prompt, as arguments of GenerationRequest."""
    candidates = message.response_options.candidates
    if not 0 <= candidates <= MOST_CANDIDATES:
        violations.append(Violation("response_options.candidates", f"must be from 0 to {MOST_CANDIDATES}"))
    if not 1 <= tokens_per_message(message) <= MOST_TOKENS_PER_MESSAGE:
        allowed = f"must be from 1 to {MOST_TOKENS_PER_MESSAGE}"
        violations.append(Violation("response_options.max_tokens_per_message", allowed))
    return {
        "policy": read_policy(message.policy, "policy", violations),
        "filters": read_filters(message.filters, "filters", violations),
        "stopping": read_stopping(message.stopping, vocab_size, "stopping", violations),
        "seed": message.seed if message.HasField("seed") else secrets.randbits(32),
        "candidates": candidates,
    }


def tokens_per_message(message: generation_pb2.GenerateRequest) -> int:
    """How many tokens are gathered before a message is sent."""
    options = message.response_options
    return options.max_tokens_per_message if options.HasField("max_tokens_per_message") else 1


def wants_info(message: generation_pb2.GenerateRequest) -> bool:
    """Whether tokens carry their sampling info."""
    options = message.response_options
    return options.sampling_info if options.HasField("sampling_info") else True


def _enum_words(message: Any, field: str) -> dict[int, str]:
    """The values of an enum field as the lower-case words of the policy: {2: "vocabulary"}."""
    enum = message.DESCRIPTOR.fields_by_name[field].enum_type
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
    return {value.number: value.name.removeprefix(prefix).lower() for value in enum.values}


# Responses.


def policy_message(policy: Policy) -> policy_pb2.Policy:
    """A policy with every parameter filled in."""
    message = policy_pb2.Policy()
    arm = getattr(message, policy.name)
    arm.SetInParent()
    for parameter in policy.parameters():
        value = getattr(policy, parameter.name)
        if parameter.choices:
            value = {word: number for number, word in _enum_words(arm, parameter.name).items()}[value]
        setattr(arm, parameter.name, value)
    return message


def started_message(request: GenerationRequest, event: Started, model: str) -> generation_pb2.GenerateResponse:
    """The first event of a stream."""
    response = generation_pb2.GenerateResponse()
    started = response.started
    started.generation_id = request.id
    started.model = model
    started.policy.CopyFrom(policy_message(request.policy))
    started.seed = request.seed
    started.prompt_tokens = len(request.prompt)
    started.max_output_tokens = event.max_output_tokens
    _duration(started.queue_time, event.queue_seconds)
    return response


def output_message(
    drawn: Sequence[Drawn], rest: str, token_bytes: TokenBytes, with_info: bool
) -> generation_pb2.GenerateResponse:
    """Text and tokens. rest: text that was held back and belongs to no token of this message."""
    response = generation_pb2.GenerateResponse()
    output = response.output
    output.text_delta = "".join(event.text for event in drawn) + rest
    for event in drawn:
        info = event.info
        token = output.tokens.add(
            index=event.index,
            token_id=info.token_id,
            token_bytes=token_bytes(info.token_id),
            logprob=info.logprob,
            filtered_logprob=info.filtered_logprob,
            rank=info.rank,
        )
        if with_info:
            _fill_info(token.sampling_info, info)
        for choice in event.choices:
            candidate = token.candidates.add(
                token_id=choice.token_id, token_bytes=token_bytes(choice.token_id), logprob=choice.logprob
            )
            if not math.isnan(choice.filtered_logprob):
                candidate.filtered_logprob = choice.filtered_logprob
    return response


def _fill_info(message: generation_pb2.SamplingInfo, info: SamplingInfo) -> None:
    message.original_entropy = info.original_entropy
    message.final_entropy = info.final_entropy
    message.entropy_change = info.entropy_change
    message.effective_vocab_size = info.effective_vocab_size
    message.original_vocab_size = info.original_vocab_size
    message.top_token_prob = info.top_token_prob
    message.varentropy = info.varentropy
    message.final_perplexity = math.exp(info.final_entropy)
    message.original_top_prob = info.original_top_prob
    if info.top_k:
        message.top_k = info.top_k
    if info.top_p < 1.0:
        message.top_p = info.top_p
    if info.min_p:
        message.min_p = info.min_p
    for name in ("temperature", "scaled_entropy", "kept_mass"):
        value = getattr(info, name)
        if not math.isnan(value):
            setattr(message, name, value)
    for name in ("saturated", "infeasible"):
        value = getattr(info, name)
        if not math.isnan(value):
            setattr(message, name, bool(value))


def finished_message(event: Finished) -> generation_pb2.GenerateResponse:
    """The last event of a stream."""
    response = generation_pb2.GenerateResponse()
    finished = response.finished
    finished.reason = _REASONS[event.reason]
    if isinstance(event.matched, str):
        finished.stop_sequence = event.matched
    elif event.matched is not None:
        finished.stop_token_id = event.matched
    finished.usage.prompt_tokens = event.prompt_tokens
    finished.usage.output_tokens = event.output_tokens
    timing = finished.timing
    _duration(timing.queue, event.queue_seconds)
    _duration(timing.prefill, event.prefill_seconds)
    _duration(timing.time_to_first_token, event.queue_seconds + event.prefill_seconds)
    _duration(timing.decode, event.decode_seconds)
    if event.output_tokens > 1:
        _duration(timing.mean_gap, event.decode_seconds / (event.output_tokens - 1))
    _fill_summary(finished.summary, event.record)
    return response


_REASONS = {reason: generation_pb2.FinishReason.Value(f"FINISH_REASON_{reason.name}") for reason in FinishReason}


def _fill_summary(message: generation_pb2.Summary, record: Record) -> None:
    _fill_distribution(message.original_entropy, np.asarray(record.original_entropy))
    _fill_distribution(message.final_entropy, np.asarray(record.final_entropy))
    temperatures, saturated = np.asarray(record.temperature), np.asarray(record.saturated)
    if not np.isnan(temperatures).any():
        _fill_distribution(message.temperature, temperatures)
    if not np.isnan(saturated).any():
        message.saturated_share = float(saturated.mean())
    surprisal = float(np.mean(np.asarray(record.surprisal)))
    message.mean_surprisal = surprisal
    message.perplexity = math.exp(min(surprisal, 700.0))
    message.bits_per_token = surprisal / math.log(2)


def _fill_distribution(message: generation_pb2.Distribution, values: np.ndarray) -> None:
    ranked = np.sort(values)
    message.mean, message.min, message.max = float(ranked.mean()), float(ranked[0]), float(ranked[-1])
    for percent in (10, 50, 90, 99):
        place = max(0, math.ceil(percent / 100 * len(ranked)) - 1)
        setattr(message, f"p{percent}", float(ranked[place]))


def _duration(message: Any, seconds: float) -> None:
    message.FromNanoseconds(max(0, round(seconds * 1e9)))


def policy_descriptions() -> model_pb2.ListPoliciesResponse:
    """Every policy, from its own declaration."""
    response = model_pb2.ListPoliciesResponse()
    for kind in POLICIES.values():
        description = response.policies.add(name=kind.name, summary=kind.summary())
        for parameter in kind.parameters():
            _fill_parameter(description.parameters.add(), parameter)
    return response


def _fill_parameter(message: model_pb2.ParameterDescription, parameter: Parameter) -> None:
    message.name, message.help, message.unit = parameter.name, parameter.help, parameter.unit
    if parameter.choices:
        message.choice = parameter.default
        message.choices.extend(parameter.choices)
    else:
        message.number = parameter.default
    if parameter.minimum is not None:
        message.minimum = parameter.minimum
        message.minimum_excluded = parameter.minimum_excluded
    if parameter.maximum is not None:
        message.maximum = parameter.maximum
