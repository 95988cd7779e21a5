"""Requests from messages; everything that is wrong with them, field by field."""

import math
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from adaptive import Course, ParameterError, Policy
from adaptive.signals import MOST_RULES, SIGNAL_PRESETS, WIDEST_WINDOW, Rule
from server.convert.policies import enum_words, read_filters, read_penalties, read_policy, read_state
from server.engine.request import Resume, Stopping
from server.errors import Violation
from thermostat.v1 import generation_pb2

MOST_CANDIDATES = 20
MOST_TOKENS_PER_MESSAGE = 256
MOST_STOP_SEQUENCES = 16
LONGEST_STOP_SEQUENCE = 256
MOST_STOP_TOKENS = 256

LARGEST_BIAS = 100.0
MOST_BIASES = 1024
MOST_BREAKERS = 16
LONGEST_BREAKER = 40
BREAKERS = ("\n", ":", '"', "*")

Violations = list[Violation]


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
    """All of a GenerateRequest but its prompt, its breakers and its form, as arguments of GenerationRequest."""
    arguments = _read_common(message, vocab_size, violations)
    stopping = read_stopping(message.stopping, vocab_size, "stopping", violations)
    resume = _read_resume(message.resume, arguments["policy"], vocab_size, violations)
    if resume.tokens and not message.HasField("seed"):
        violations.append(Violation("seed", "must be set with resume, to the seed of the generation that was cut"))
    if len(resume.tokens) >= stopping.max_output_tokens >= 1:
        allowed = f"must be above the {len(resume.tokens)} tokens of resume.token_ids, which count too"
        violations.append(Violation("stopping.max_output_tokens", allowed))
    if message.constraint.WhichOneof("form") and stopping.ignore_eos:
        violations.append(Violation("stopping.ignore_eos", "must be unset with constraint, whose form ends the text"))
    if message.HasField("constraint") and message.constraint.WhichOneof("form") is None:
        violations.append(Violation("constraint.form", "one of json_schema, regex and grammar must be set"))
    return arguments | {
        "stopping": stopping,
        "seed": message.seed if message.HasField("seed") else secrets.randbits(32),
        "resume": resume,
    }


def read_score(message: generation_pb2.ScoreRequest, vocab_size: int, violations: Violations) -> dict[str, Any]:
    """All of a ScoreRequest but its text and its breakers, as arguments of GenerationRequest."""
    arguments = _read_common(message, vocab_size, violations)
    first = message.prompt_tokens if message.HasField("prompt_tokens") else 1
    if first < 1:
        violations.append(Violation("prompt_tokens", "must be at least 1"))
    for i, rule in enumerate(message.signals.rules):
        if rule.action not in (0, generation_pb2.SIGNAL_ACTION_REPORT):
            violations.append(Violation(f"signals.rules[{i}].action", "must be REPORT: scoring has nothing to act on"))
    return arguments | {"scored_from": first}


def _read_common(message: Any, vocab_size: int, violations: Violations) -> dict[str, Any]:
    """What generating and scoring have in common."""
    candidates = message.response_options.candidates
    if not 0 <= candidates <= MOST_CANDIDATES:
        violations.append(Violation("response_options.candidates", f"must be from 0 to {MOST_CANDIDATES}"))
    if not 1 <= tokens_per_message(message) <= MOST_TOKENS_PER_MESSAGE:
        allowed = f"must be from 1 to {MOST_TOKENS_PER_MESSAGE}"
        violations.append(Violation("response_options.max_tokens_per_message", allowed))
    policy, preset = read_policy(message.policy, "policy", violations)
    return {
        "policy": policy,
        "filters": read_filters(message.filters, preset, "filters", violations),
        "penalties": read_penalties(message.penalties, "penalties", violations),
        "bias": _read_bias(message.logit_bias, vocab_size, violations),
        "rules": _read_signals(message.signals, policy, violations),
        "candidates": candidates,
    }


def _read_bias(given: Mapping[int, float], vocab_size: int, violations: Violations) -> dict[int, float]:
    if len(given) > MOST_BIASES:
        violations.append(Violation("logit_bias", f"must be at most {MOST_BIASES}"))
        return {}
    for token, bias in given.items():
        if not 0 <= token < vocab_size:
            violations.append(Violation(f"logit_bias[{token}]", f"must be for a token from 0 to {vocab_size - 1}"))
        elif not -LARGEST_BIAS <= bias <= LARGEST_BIAS:
            allowed = f"must be from {-LARGEST_BIAS:g} to {LARGEST_BIAS:g}"
            violations.append(Violation(f"logit_bias[{token}]", allowed))
    return dict(given)


def read_breakers(message: generation_pb2.Penalties, violations: Violations) -> Sequence[str]:
    """The texts that break a repetition; none unless DRY is on."""
    given = message.dry_sequence_breakers
    if not message.dry_multiplier > 0:
        if given:
            violations.append(Violation("penalties.dry_sequence_breakers", "must be unset without dry_multiplier"))
        return ()
    if len(given) > MOST_BREAKERS:
        violations.append(Violation("penalties.dry_sequence_breakers", f"must be at most {MOST_BREAKERS}"))
        return ()
    for i, breaker in enumerate(given):
        if not 1 <= len(breaker) <= LONGEST_BREAKER:
            allowed = f"must have 1 to {LONGEST_BREAKER} characters"
            violations.append(Violation(f"penalties.dry_sequence_breakers[{i}]", allowed))
    return tuple(given) or BREAKERS


def _read_signals(message: generation_pb2.Signals, policy: Policy, violations: Violations) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    if message.preset:
        if message.preset in SIGNAL_PRESETS:
            rules.extend(SIGNAL_PRESETS[message.preset])
        else:
            violations.append(Violation("signals.preset", f"must be one of {', '.join(SIGNAL_PRESETS)}"))
    if len(message.rules) > MOST_RULES:
        violations.append(Violation("signals.rules", f"must be at most {MOST_RULES}"))
        return ()
    for i, given in enumerate(message.rules):
        path = f"signals.rules[{i}]"
        settings = {name: getattr(given, name) for name in ("threshold", "window") if given.HasField(name)}
        kind = enum_words(given, "kind").get(given.kind, str(given.kind))
        action = enum_words(given, "action").get(given.action, str(given.action)) if given.action else "report"
        try:
            rules.append(Rule(kind, **settings, action=action))
        except ParameterError as error:
            violations.extend(Violation(f"{path}.{name}", allowed) for name, allowed in error.violations)
        if action == "next_phase" and policy.name != "phased":
            violations.append(Violation(f"{path}.action", "must not be NEXT_PHASE: the policy has no phases"))
    return tuple(rules)


def _read_resume(message: generation_pb2.Resume, policy: Policy, vocab_size: int, violations: Violations) -> Resume:
    bad = next((i for i, token in enumerate(message.token_ids) if not 0 <= token < vocab_size), None)
    if bad is not None:
        violations.append(Violation(f"resume.token_ids[{bad}]", f"must be from 0 to {vocab_size - 1}"))
    if len(message.recent_entropy) > WIDEST_WINDOW:
        violations.append(Violation("resume.recent_entropy", f"must be at most {WIDEST_WINDOW}"))
    elif not all(math.isfinite(entropy) for entropy in message.recent_entropy):
        violations.append(Violation("resume.recent_entropy", "must be finite numbers"))
    if message.saturated_run < 0:
        violations.append(Violation("resume.saturated_run", "must be at least 0"))
    state = read_state(message.policy_state)
    started = bool(message.token_ids)
    try:
        if state is None and started and Course(policy).report() is not None:
            raise ParameterError([("policy", f"must be {policy.name}, whose state goes on")])
        Course(policy, state)
    except ParameterError as error:
        violations.extend(Violation(f"resume.policy_state.{name}", allowed) for name, allowed in error.violations)
        state = None
    return Resume(tuple(message.token_ids), state, tuple(message.recent_entropy), message.saturated_run)


def tokens_per_message(message: Any) -> int:
    """How many tokens are gathered before a message is sent."""
    options = message.response_options
    return options.max_tokens_per_message if options.HasField("max_tokens_per_message") else 1


def wants_info(message: Any) -> bool:
    """Whether tokens carry their sampling info."""
    options = message.response_options
    return options.sampling_info if options.HasField("sampling_info") else True
