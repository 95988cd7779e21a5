"""Every field of every request changes what happens, or is refused by name. A field without a row fails here.

A row says under which request a field is looked at and what it is set to. What is compared is what the stream carries
of each token, how its messages are cut and why it ends; `Started`, which only repeats the request, is not.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from thermostat.errors import error_from
from thermostat.v1 import generation_pb2 as pb
from thermostat.v1 import generation_pb2_grpc, model_pb2, model_pb2_grpc

PROMPT = "import os\nimport sys\nimport os\nimport sys\nimport os\n\ndef read(self):\n"


@dataclass(frozen=True)
class Row:
    """A field's value, and the rest of the request as JSON. refused: where the server names it instead."""

    value: Any
    base: dict[str, Any] = field(default_factory=dict)
    refused: str = ""


def of(path: str, **rows: Any) -> dict[str, Row]:
    """Rows of several fields of one message, without anything else in it."""
    return {f"{path}.{name}": Row(value) for name, value in rows.items()}


def under(base: dict[str, Any], rows: dict[str, Row]) -> dict[str, Row]:
    """The same rows, looked at under `base`."""
    return {path: Row(row.value, base) for path, row in rows.items()}


def quadrant(corner: str, **bounds: float) -> dict[str, Row]:
    """Rows of one corner of the quadrant policy, under bounds that put every step into it."""
    rows = of("policy.quadrant", **{f"{corner}temperature": 0.3, f"{corner}top_k": 2})
    rows |= of("policy.quadrant", **{f"{corner}top_p": 0.3, f"{corner}min_p": 0.5})
    return under({"policy": {"quadrant": bounds}}, rows)


def phases(first: dict[str, Any]) -> dict[str, Any]:
    return {"policy": {"phased": {"phases": [first, {"policy": {"greedy": {}}}]}}}


def rule(**fields: Any) -> dict[str, Any]:
    return {"signals": {"rules": [fields]}}


PLAIN = {"low_varentropy": 0.0, "high_varentropy": 99.0}
AGAIN = {"text": "self.a, self.b, self.c, " * 5 + "self.a, self.b", "response_options": {"candidates": 20}}
DRY = {**AGAIN, "penalties": {"dry_multiplier": 1.0}}
MIROSTAT = {"policy": {"mirostat": {}}, "resume": {"token_ids": [5, 6]}}
STATE = {"policy": "mirostat", "values": {"mu": 4.0}}
PHASED = phases({"policy": {"mirostat": {}}, "tokens": 99})
PHASED_STATE = {"policy": "phased", "values": {"phase": 0.0, "tokens": 1.0, "in_a_row": 0.0}}

SHARED = (
    {"text": Row("class Other:\n"), "token_ids.ids": Row([5, 6, 7], {"token_ids": {"ids": [8, 9, 10]}})}
    | {"model": Row("another", refused="model")}
    | {
        f"chat.messages[].{name}": Row(value, {"chat": {"messages": [{"role": "user", "content": "write a parser"}]}})
        for name, value in (("role", "assistant"), ("content", "write a lexer, please"))
    }
    | {
        "chat.add_generation_prompt": Row(
            False, {"chat": {"messages": [{"role": "user", "content": "write a parser of tokens"}]}}
        )
    }
    | of("policy.fixed", temperature=0.5)
    | {"policy.greedy": Row({})}
    | of("policy.entropy_band", low_entropy=2.0, high_entropy=2.0, temperature_at_low=0.5, temperature_at_high=1.5)
    | of("policy.entropy_band", exponent=3.0, min_temperature=1.2, max_temperature=0.9)
    | {
        "policy.entropy_band.normalizer": Row(
            "ENTROPY_NORMALIZER_VOCABULARY", {"policy": {"entropy_band": {"low_entropy": 0.1, "high_entropy": 0.9}}}
        )
    }
    | of("policy.edt", base_temperature=0.5, theta=3.0, base=0.5, min_temperature=0.9, max_temperature=0.3)
    | of("policy.target_entropy", target_entropy=3.0, min_temperature=1.2, max_temperature=0.3)
    | of("policy.entropy_feedback", setpoint=4.0, measure="ENTROPY_MEASURE_SURPRISAL", half_life=1.0, kp=2.0, ki=0.5)
    | of("policy.entropy_feedback", base_temperature=0.5, min_temperature=1.5, max_temperature=0.5)
    | of("policy.mirostat", tau=0.5, eta=1.0, initial_mu=0.5, surprise="SURPRISE_RENORMALIZED", temperature=0.5)
    | quadrant("", **PLAIN)
    | under({"policy": {"quadrant": PLAIN}}, of("policy.quadrant", entropy_gain=0.5, varentropy_gain=0.5))
    | under({"policy": {"quadrant": PLAIN}}, of("policy.quadrant", min_temperature=1.5, max_temperature=0.5))
    | of("policy.quadrant", low_entropy=0.1, high_entropy=4.0, low_varentropy=0.1, high_varentropy=9.0)
    | quadrant("low_low_", low_entropy=99.0, high_entropy=99.0, low_varentropy=99.0, high_varentropy=99.0)
    | quadrant("low_high_", low_entropy=99.0, high_entropy=99.0, low_varentropy=0.0, high_varentropy=0.0)
    | quadrant("high_low_", low_entropy=0.0, high_entropy=0.0, low_varentropy=99.0, high_varentropy=99.0)
    | quadrant("high_high_", low_entropy=0.0, high_entropy=0.0, low_varentropy=0.0, high_varentropy=0.0)
    | of("policy.adaptive_p", target=0.05, decay=0.1, temperature=0.5)
    | of(
        "policy.bell", base_temperature=1.5, peak=-0.4, center=0.8, width=0.5, min_temperature=1.5, max_temperature=0.5
    )
    | of("policy.entropy_polynomial", coefficient_4=0.0, coefficient_3=0.0, coefficient_2=-1.0, coefficient_1=8.0)
    | of("policy.entropy_polynomial", coefficient_0=3.0, threshold=3.0, min_temperature=0.9, max_temperature=0.5)
    | {
        "policy.phased.phases[].policy": Row({"fixed": {"temperature": 0.5}}, phases({"tokens": 99})),
        "policy.phased.phases[].marker": Row("e", phases({"tokens": 99})),
        "policy.phased.phases[].tokens": Row(3, phases({"tokens": 1})),
        "policy.phased.phases[].entropy_event.above": Row(0.1, phases({"entropy_event": {"above": 50.0}})),
        "policy.phased.phases[].entropy_event.below": Row(8.0, phases({"entropy_event": {"below": 0.0}})),
        "policy.phased.phases[].entropy_event.tokens": Row(5, phases({"entropy_event": {"above": 0.01}})),
        "policy.plugin.name": Row("nobody", refused="policy"),
        "policy.plugin.parameters": Row({"x": 1}, {"policy": {"plugin": {"name": "nobody"}}}, refused="policy"),
        "policy.preset.name": Row("entropix", {"policy": {"preset": {"name": "llamacpp.dynatemp"}}}),
    }
    | of("filters", top_k=2, top_p=0.3, min_p=0.5, typical_p=0.3, epsilon_cutoff=0.1, eta_cutoff=0.5, top_n_sigma=0.5)
    | of("filters", top_h=0.3, p_less=True, xtc_probability=1.0)
    | {
        "filters.top_h_variant": Row("TOP_H_VARIANT_HUGGING_FACE", {"filters": {"top_h": 0.5}}),
        "filters.xtc_threshold": Row(0.01, {"filters": {"xtc_probability": 1.0}}),
    }
    | of("penalties", repetition=5.0, presence=5.0, frequency=5.0)
    | under(AGAIN, of("penalties", dry_multiplier=5.0))
    | under(
        DRY, of("penalties", dry_base=1.0, dry_allowed_length=40, dry_window=2, dry_sequence_breakers=["self", "."])
    )
    | {"logit_bias": Row({"5": 50.0})}
    | of("response_options", sampling_info=False, candidates=3, max_tokens_per_message=4)
    | {
        "signals.preset": Row("strict"),
        "signals.rules[].kind": Row("SIGNAL_KIND_ENTROPY_HIGH", rule(kind="SIGNAL_KIND_ENTROPY_RISE", threshold=0.0)),
        "signals.rules[].threshold": Row(0.5, rule(kind="SIGNAL_KIND_ENTROPY_HIGH")),
        "signals.rules[].window": Row(2, rule(kind="SIGNAL_KIND_ENTROPY_COLLAPSE", threshold=8.0)),
    }
)

GENERATE = SHARED | {
    "seed": Row("8"),
    "signals.rules[].action": Row("SIGNAL_ACTION_STOP", rule(kind="SIGNAL_KIND_ENTROPY_HIGH", threshold=0.1)),
    "stopping.max_output_tokens": Row(3),
    "stopping.min_output_tokens": Row(5, {"stopping": {"stop_token_ids": list(range(1, 250))}}),
    "stopping.stop_sequences": Row(["e", "s", "\n"]),
    "stopping.stop_token_ids": Row(list(range(1, 250))),
    "stopping.ignore_eos": Row(True, {"logit_bias": {"0": 100.0}}),
    "stopping.time_limit": Row("0.000001s"),
    "resume.token_ids": Row([5, 6], {"resume": {"token_ids": [5]}}),
    "resume.policy_state.policy": Row("edt", MIROSTAT, refused="resume.policy_state.policy"),
    "resume.policy_state.values": Row({"mu": 0.5}, {**MIROSTAT, "resume": {"token_ids": [5], "policy_state": STATE}}),
    "resume.policy_state.phases": Row(
        [{"policy": "mirostat", "values": {"mu": 0.5}}, {}],
        {**PHASED, "resume": {"token_ids": [5], "policy_state": {**PHASED_STATE, "phases": [STATE, {}]}}},
    ),
    "resume.recent_entropy": Row(
        [0.0] * 8, {"resume": {"token_ids": [5]}, **rule(kind="SIGNAL_KIND_ENTROPY_SPIKE", threshold=0.1, window=8)}
    ),
    "resume.saturated_run": Row(
        15,
        {"resume": {"token_ids": [5]}, "policy": {"target_entropy": {"target_entropy": 8.3, "max_temperature": 0.2}}}
        | rule(kind="SIGNAL_KIND_SATURATED"),
    ),
    "constraint.json_schema": Row('{"type": "boolean"}'),
    "constraint.regex": Row("[0-9]+"),
    "constraint.grammar": Row('start: "a"+'),
}  # fmt: skip

SCORE = SHARED | {
    "prompt_tokens": Row(4),
    "signals.rules[].action": Row(
        "SIGNAL_ACTION_STOP", rule(kind="SIGNAL_KIND_ENTROPY_HIGH"), refused="signals.rules[0].action"
    ),
}

INPUT = {path: row for path, row in SHARED.items() if path.partition(".")[0] in ("text", "token_ids", "chat", "model")}
TABLES: dict[type[Message], dict[str, Row]] = {
    pb.GenerateRequest: GENERATE,
    pb.ScoreRequest: SCORE,
    model_pb2.CountTokensRequest: INPUT,
    model_pb2.GetModelRequest: {"model": SHARED["model"]},
    model_pb2.ListPoliciesRequest: {},
}


def fields(message: Descriptor, path: str = "", above: tuple[str, ...] = ()) -> Iterator[str]:
    """Paths of all fields that hold no others: a repeated message as `name[]`; a message within itself as one."""
    for each in message.fields:
        name = f"{path}{each.name}"
        inner = each.message_type
        map_or_given = inner is None or inner.GetOptions().map_entry or inner.full_name.startswith("google.")
        if map_or_given or not inner.fields or inner.full_name in (*above, message.full_name):
            yield name
        else:
            repeated = "[]" if each.is_repeated else ""
            yield from fields(inner, f"{name}{repeated}.", (*above, message.full_name))


@pytest.mark.parametrize("kind", TABLES, ids=lambda kind: kind.__name__)
def test_every_field_of_the_contract_has_a_row(kind):
    assert set(fields(kind.DESCRIPTOR)) == set(TABLES[kind])


def test_every_request_of_the_contract_has_a_table():
    services = [
        file.services_by_name[name] for file in (pb.DESCRIPTOR, model_pb2.DESCRIPTOR) for name in file.services_by_name
    ]
    requests = {method.input_type.full_name for service in services for method in service.methods}
    assert requests == {kind.DESCRIPTOR.full_name for kind in TABLES}


def with_field(kind: type[Message], path: str, row: Row) -> Message:
    """The row's request, its field set."""
    request = whole(kind, row)
    *names, last = path.split(".")
    message: Any = request
    for name in names:
        inner = getattr(message, name.removesuffix("[]"))
        message = inner[0] if name.endswith("[]") else inner
    message.ClearField(last)
    json_format.ParseDict({last: row.value}, message)
    return request


def whole(kind: type[Message], row: Row) -> Message:
    """The row's request without its field; what every request needs is added."""
    request = json_format.ParseDict(row.base, kind())
    if "input" in kind.DESCRIPTOR.oneofs_by_name and request.WhichOneof("input") is None:
        request.text = PROMPT
    if isinstance(request, pb.GenerateRequest):
        request.seed = 7
        if not request.stopping.HasField("max_output_tokens"):
            request.stopping.max_output_tokens = 12
    return request


class Asked:
    """Sends requests, each once; what came of it, without what only repeats the request."""

    def __init__(self, channel: grpc.Channel) -> None:
        generation = generation_pb2_grpc.GenerationServiceStub(channel)
        model = model_pb2_grpc.ModelServiceStub(channel)
        self._calls: dict[type[Message], Callable[[Any], Any]] = {
            pb.GenerateRequest: lambda request: self._stream(generation.Generate(request, timeout=60)),
            pb.ScoreRequest: lambda request: self._stream(generation.Score(request, timeout=60)),
            model_pb2.CountTokensRequest: model.CountTokens,
            model_pb2.GetModelRequest: model.GetModel,
        }
        self._answers: dict[bytes, Any] = {}

    def __call__(self, request: Message) -> Any:
        key = type(request).__name__.encode() + request.SerializeToString(deterministic=True)
        if key not in self._answers:
            self._answers[key] = self._calls[type(request)](request)
        return self._answers[key]

    @staticmethod
    def _stream(events: Any) -> Any:
        told = []
        for event in events:
            if event.HasField("output"):
                told.append(event.output)
            elif event.HasField("finished"):
                told.append((event.finished.reason, event.finished.usage))
        return told


@pytest.fixture(scope="module")
def asked(address: str) -> Iterator[Asked]:
    with grpc.insecure_channel(address) as channel:
        yield Asked(channel)


@pytest.mark.parametrize(
    ("kind", "path"),
    [(kind, path) for kind, rows in TABLES.items() for path in rows],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_the_field_changes_what_happens_or_is_refused(kind, path, asked):
    row = TABLES[kind][path]
    if not row.refused:
        assert asked(whole(kind, row)) != asked(with_field(kind, path, row))
        return
    with pytest.raises(grpc.RpcError) as raised:
        asked(with_field(kind, path, row))
    error = error_from(raised.value)
    if error.code is grpc.StatusCode.NOT_FOUND:
        assert error.reason == f"{row.refused.upper()}_NOT_FOUND"
    else:
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert [violation.field for violation in error.violations] == [row.refused]
