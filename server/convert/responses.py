"""Events of the engine to messages."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from adaptive import SamplingInfo
from server.convert.policies import fill_state, filters_message, policy_message
from server.engine.detokenizer import TokenBytes
from server.engine.events import Drawn, Finished, FinishReason, Record, Started
from server.engine.request import GenerationRequest, Resume
from thermostat.v1 import generation_pb2


def started_message(request: GenerationRequest, event: Started, model: str) -> generation_pb2.Started:
    """The first event of a stream."""
    started = generation_pb2.Started()
    started.generation_id = request.id
    started.model = model
    started.policy.CopyFrom(policy_message(request.policy))
    started.seed = request.seed
    started.filters.CopyFrom(filters_message(request.filters))
    started.prompt_tokens = len(request.prompt) if request.scored_from is None else request.scored_from
    started.cached_tokens = event.cached_tokens
    started.max_output_tokens = event.max_output_tokens
    _duration(started.queue_time, event.queue_seconds)
    return started


def output_message(
    drawn: Sequence[Drawn], rest: str, token_bytes: TokenBytes, with_info: bool
) -> generation_pb2.Output:
    """Text and tokens. rest: text that was held back and belongs to no token of this message."""
    output = generation_pb2.Output()
    output.text_delta = "".join(event.text for event in drawn) + rest
    for event in drawn:
        info = event.info
        token = output.tokens.add(
            index=event.index,
            token_id=info.token_id,
            token_bytes=token_bytes(info.token_id),
            logprob=info.logprob,
            rank=info.rank,
        )
        if not math.isnan(info.filtered_logprob):
            token.filtered_logprob = info.filtered_logprob
        if with_info:
            _fill_info(token.sampling_info, info)
            if event.state is not None:
                fill_state(token.sampling_info.policy_state, event.state)
            if event.phase is not None:
                token.sampling_info.phase = event.phase
        for signal in event.signals:
            token.signals.add(
                kind=f"SIGNAL_KIND_{signal.kind.upper()}",
                value=signal.value,
                threshold=signal.threshold,
                action=f"SIGNAL_ACTION_{signal.action.upper()}",
            )
        for choice in event.choices:
            candidate = token.candidates.add(
                token_id=choice.token_id, token_bytes=token_bytes(choice.token_id), logprob=choice.logprob
            )
            if not math.isnan(choice.filtered_logprob):
                candidate.filtered_logprob = choice.filtered_logprob
    if drawn and drawn[-1].state is not None and not with_info:
        fill_state(output.policy_state, drawn[-1].state)
    return output


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
    for name in ("temperature", "scaled_entropy", "kept_mass", "constraint_mass"):
        value = getattr(info, name)
        if not math.isnan(value):
            setattr(message, name, value)
    for name in ("saturated", "infeasible"):
        value = getattr(info, name)
        if not math.isnan(value):
            setattr(message, name, bool(value))


def finished_message(event: Finished) -> generation_pb2.Finished:
    """The last event of a stream."""
    finished = generation_pb2.Finished()
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
    if event.resume is not None:
        _fill_resume(finished.resume, event.resume)
    return finished


def _fill_resume(message: generation_pb2.Resume, resume: Resume) -> None:
    message.token_ids.extend(resume.tokens)
    if resume.state is not None:
        fill_state(message.policy_state, resume.state)
    message.recent_entropy.extend(resume.recent_entropy)
    message.saturated_run = resume.saturated_run


_REASONS = {reason: generation_pb2.FinishReason.Value(f"FINISH_REASON_{reason.name}") for reason in FinishReason}


def _fill_summary(message: generation_pb2.Summary, record: Record) -> None:
    _fill_distribution(message.original_entropy, np.asarray(record.original_entropy))
    _fill_distribution(message.final_entropy, np.asarray(record.final_entropy))
    temperatures, saturated = np.asarray(record.temperature), np.asarray(record.saturated)
    # Of a phased run, those steps that have one: greedy has no temperature, and not every policy has bounds.
    if not np.isnan(temperatures).all():
        _fill_distribution(message.temperature, temperatures[~np.isnan(temperatures)])
    if not np.isnan(saturated).all():
        message.saturated_share = float(np.nanmean(saturated))
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
