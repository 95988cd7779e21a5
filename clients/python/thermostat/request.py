"""From Python values to the messages of the contract; the same for the sync and the async client."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict, TypeVar

from google.protobuf.duration_pb2 import Duration

from thermostat.policies import PolicyLike, to_message
from thermostat.v1.generation_pb2 import (
    Chat,
    ChatMessage,
    Constraint,
    GenerateRequest,
    Penalties,
    Resume,
    ScoreRequest,
    Signals,
    TokenIds,
)
from thermostat.v1.model_pb2 import CountTokensRequest

Prompt: TypeAlias = str | Sequence[int] | Sequence[Mapping[str, str]]
"""Text, token ids, or a chat as `[{"role": "user", "content": "..."}]`."""

_Request = TypeVar("_Request", GenerateRequest, ScoreRequest, CountTokensRequest)
_MESSAGES: dict[str, Any] = {"penalties": Penalties, "constraint": Constraint, "resume": Resume}


class Options(TypedDict, total=False):
    """Keyword arguments that `generate` and `score` share. None or absent means unset: the server's default holds."""

    model: str | None
    """Name of the model. Default: the one that is served."""
    policy: PolicyLike | None
    """How each temperature is set. Default: Fixed(1)."""
    top_k: int | None
    """Keep the k most likely tokens, at least 1."""
    top_p: float | None
    """Keep the smallest set of tokens with this share of the probability, above 0 and at most 1."""
    min_p: float | None
    """Keep tokens at least this many times as likely as the most likely one, 0 to 1."""
    typical_p: float | None
    """Keep the smallest set with this mass of tokens whose surprisal is nearest the entropy."""
    epsilon_cutoff: float | None
    """Keep tokens of at least this probability."""
    eta_cutoff: float | None
    """Keep tokens of at least min(eta, sqrt(eta) exp(-entropy)) probability."""
    top_n_sigma: float | None
    """Keep tokens whose logit is at least the largest less this many standard deviations."""
    top_h: float | None
    """Keep the most likely tokens while their entropy stays within this share of the whole."""
    top_h_variant: str | None
    """"paper" (default) or "hugging_face"."""
    p_less: bool | None
    """Keep tokens at least as likely as the sum of squared probabilities."""
    xtc_threshold: float | None
    """Of the tokens of at least this probability xtc keeps the least likely. Default 0.1."""
    xtc_probability: float | None
    """The chance that xtc acts at a step. Default 0."""
    penalties: Mapping[str, Any] | Penalties | None
    """What makes repetition less likely: the message, or its fields, such as {"repetition": 1.1}."""
    logit_bias: Mapping[int, float] | None
    """Added to the logits of tokens by id."""
    signals: str | Signals | None
    """What to watch for: a preset's name, "default" or "strict", or the message."""
    sampling_info: bool | None
    """Whether each token says how it came to be drawn. Default True."""
    candidates: int | None
    """How many of the most likely tokens to report at each step, 0 to 20. Default 0."""
    max_tokens_per_message: int | None
    """Tokens gathered before an Output is sent, 1 to 256. Default 1."""
    add_generation_prompt: bool | None
    """For a chat: whether the template opens the assistant's turn. Default True."""


class GenerateOptions(Options, total=False):
    """Keyword arguments of `generate`."""

    seed: int | None
    """Seed of the draws, 0 to 2**64 - 1. Default: the server picks one and tells it in `Started.seed`."""
    constraint: Mapping[str, str] | Constraint | None
    """A form that the output must have: {"json_schema": ...}, {"regex": ...} or {"grammar": ...}."""
    resume: Resume | None
    """Where the generation was cut: its `Finished.resume`. All else must be as it was, the seed included."""
    max_output_tokens: int | None
    """Most tokens to draw, at least 1. Default 256."""
    min_output_tokens: int | None
    """No end before this many tokens. Default 0."""
    stop_sequences: Sequence[str] | None
    """End as soon as the text contains one of these. At most 16."""
    stop_token_ids: Sequence[int] | None
    """End when one of these is drawn. At most 256."""
    ignore_eos: bool | None
    """Treat the end-of-text token as any other. Default False."""
    time_limit: float | None
    """End well at the first token after this many seconds. Unlike `timeout`, which is an error."""


class ScoreOptions(Options, total=False):
    """Keyword arguments of `score`."""

    prompt_tokens: int | None
    """How many tokens at the beginning are prompt and not scored. Default 1."""


def generate_request(prompt: Prompt | GenerateRequest, options: Mapping[str, Any]) -> GenerateRequest:
    """The request for a prompt and `GenerateOptions`. TypeError for an option that does not exist."""
    if isinstance(prompt, GenerateRequest):
        if options:
            raise TypeError("a GenerateRequest is whole: it takes no further options")
        return prompt
    request = GenerateRequest()
    _set_prompt(request, prompt, options.get("add_generation_prompt"))
    _set_options(request, options, (request, request.filters, request.stopping, request.response_options))
    return request


def score_request(text: Prompt, options: Mapping[str, Any]) -> ScoreRequest:
    """The request that scores a text under `ScoreOptions`. TypeError for an option that does not exist."""
    request = ScoreRequest()
    _set_prompt(request, text, options.get("add_generation_prompt"))
    _set_options(request, options, (request, request.filters, request.response_options))
    return request


def _set_options(request: Any, options: Mapping[str, Any], parts: Sequence[Any]) -> None:
    known = (GenerateOptions if isinstance(request, GenerateRequest) else ScoreOptions).__annotations__
    for name, value in options.items():
        if value is None or name == "add_generation_prompt":
            continue
        if name == "policy":
            request.policy.CopyFrom(to_message(value))
        elif name == "time_limit":
            request.stopping.time_limit.CopyFrom(_duration(value))
        elif name == "signals":
            request.signals.CopyFrom(Signals(preset=value) if isinstance(value, str) else value)
        elif name in ("penalties", "constraint", "resume"):
            getattr(request, name).CopyFrom(_MESSAGES[name](**value) if isinstance(value, Mapping) else value)
        elif name == "logit_bias":
            request.logit_bias.update(value)
        elif name == "top_h_variant":
            request.filters.top_h_variant = f"TOP_H_VARIANT_{str(value).upper()}"
        else:
            part = next((part for part in parts if name in known and hasattr(part, name)), None)
            if part is None:
                raise TypeError(f"there is no option {name!r}; there are {', '.join(known)}")
            _set(part, name, value)


def count_request(prompt: Prompt, model: str, add_generation_prompt: bool | None) -> CountTokensRequest:
    """The request that counts the tokens of a prompt."""
    request = CountTokensRequest(model=model)
    _set_prompt(request, prompt, add_generation_prompt)
    return request


def _set(part: Any, name: str, value: Any) -> None:
    if hasattr(getattr(part, name), "extend"):
        getattr(part, name).extend([value] if isinstance(value, str) else value)
    else:
        setattr(part, name, value)


def _set_prompt(request: _Request, prompt: Prompt, add_generation_prompt: bool | None) -> None:
    if isinstance(prompt, str):
        request.text = prompt
    elif isinstance(prompt, (bytes, Mapping)) or not isinstance(prompt, Iterable):
        raise TypeError(f"a prompt is text, token ids or a list of messages, not {type(prompt).__name__}")
    elif (items := list(prompt)) and isinstance(items[0], Mapping):
        request.chat.CopyFrom(Chat(messages=[ChatMessage(**turn) for turn in items]))  # type: ignore[arg-type]
        if add_generation_prompt is not None:
            request.chat.add_generation_prompt = add_generation_prompt
    else:
        request.token_ids.CopyFrom(TokenIds(ids=items))  # type: ignore[arg-type]
    if add_generation_prompt is not None and not request.HasField("chat"):
        raise ValueError("add_generation_prompt goes with a chat only")


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
