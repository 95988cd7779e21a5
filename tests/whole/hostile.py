"""Requests that no honest client sends: messages with hostile values in them, and bytes that are hardly messages."""

import random
from collections.abc import Callable
from typing import Any

import grpc
import hypothesis.strategies as st
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tests.whole.test_every_field import TABLES, whole, with_field
from thermostat.v1.generation_pb2 import GenerateRequest, ScoreRequest
from thermostat.v1.model_pb2 import CountTokensRequest

METHODS: dict[type[Message], str] = {
    GenerateRequest: "/thermostat.v1.GenerationService/Generate",
    ScoreRequest: "/thermostat.v1.GenerationService/Score",
    CountTokensRequest: "/thermostat.v1.ModelService/CountTokens",
}
CORPUS: dict[type[Message], list[Message]] = {
    kind: [make for path, row in TABLES[kind].items() for make in (whole(kind, row), with_field(kind, path, row))]
    for kind in METHODS
}
"""Honest requests that between them set every field."""
FINE = {"OK", "LEFT", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}
"""How a request may be answered that is not honest. LEFT: a stream that ran until it was left."""
SECONDS = 60
"""More than any request needs; one that takes longer hangs."""
_READ = 3
"""Messages of a stream that are read before it is left."""


def ask(channel: grpc.Channel, method: str, data: bytes) -> tuple[str, str]:
    """Name of the status, and the words with it."""
    try:
        if method == METHODS[CountTokensRequest]:
            channel.unary_unary(method)(data, timeout=SECONDS)
            return "OK", ""
        call = channel.unary_stream(method)(data, timeout=SECONDS)
        for _ in range(_READ):
            if next(call, None) is None:
                return "OK", ""
    except grpc.RpcError as error:
        return error.code().name, error.details() or ""
    call.cancel()
    return "LEFT", ""


_WHOLE = [0, 1, -1, 2, 127, 255, 256, 511, 512, 65536, 2**31 - 1, -(2**31)]
_REAL = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-9, 5e-324, 1e-300, 1e30, 1e300, -1e300, 1.7976931348623157e308]
_REAL += [float("nan"), float("inf"), float("-inf")]
_TEXT = [
    "", " ", "\0", "\x1b[2J\r\n", "\n" * 50, "é" * 200, "😀" * 400, "\u202e\ufeff\uffff", "<|endoftext|>", "%s{0}$(id)",
    "x" * 257, "def " * 3000, "x" * 200_000, "[" * 60_000, "{" * 30_000, '{"a":' * 8000, "(" * 5000, "a(" * 2000,
    '{"type": "object", "additionalProperties": {"$ref": "#"}}', '{"$ref": "#/no"}', '{"pattern": "(((a*)*)*)*b"}',
    '{"minItems": 1000000000, "type": "array"}', '{"multipleOf": 1e-300}', '{"enum": []}', '{"$ref": "http://x/y"}',
    "(((a*)*)*)*b", "a{1000}{1000}{1000}", "(?=a)b", r"\p{Greek}+", "[^\\x00-\\x{10FFFF}]",
    "start: start", "start: start start | ", 'start: "a" start "b" |', "start: /(/", 'start: x\nx: "a"{100000}',
]  # fmt: skip
_BY_TYPE: dict[int, st.SearchStrategy] = {
    FieldDescriptor.TYPE_DOUBLE: st.sampled_from(_REAL) | st.floats(),
    FieldDescriptor.TYPE_FLOAT: st.sampled_from([0.0, 100.0, -100.0, 3e38, -3e38, *_REAL[-3:]]) | st.floats(width=32),
    FieldDescriptor.TYPE_INT32: st.sampled_from(_WHOLE) | st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: st.sampled_from([*_WHOLE, 2**63 - 1, -(2**63), 315576000000]),
    FieldDescriptor.TYPE_UINT64: st.sampled_from([0, 1, 2**63, 2**64 - 1]),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_ENUM: st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 99, -1, 2**31 - 1]),
    FieldDescriptor.TYPE_STRING: st.sampled_from(_TEXT) | st.text(max_size=20),
}
_MOST_DEPTH = 12
_Draw = Callable[[st.SearchStrategy], Any]


@st.composite
def requests(draw: _Draw) -> Message:
    """An honest request with one to four hostile values put into it."""
    kind = draw(st.sampled_from(list(METHODS)))
    request = kind()
    request.CopyFrom(draw(st.sampled_from(CORPUS[kind])))
    for _ in range(draw(st.integers(1, 4))):
        _spoil(request, draw, 0)
    return request


def batches(size: int) -> st.SearchStrategy[list[Message]]:
    """Requests to be sent at once."""
    return st.lists(requests(), min_size=size, max_size=size)


def _spoil(message: Message, draw: _Draw, depth: int) -> None:
    """Set one field, somewhere below."""
    fields = list(message.DESCRIPTOR.fields)
    if not fields:
        return
    each = draw(st.sampled_from(fields))
    value = getattr(message, each.name)
    entry = each.message_type is not None and each.message_type.GetOptions().map_entry
    if entry:
        _spoil_map(value, each.message_type, draw, depth)
    elif each.is_repeated:
        count = draw(st.sampled_from([1, 1, 2, 20, 300]))
        for _ in range(count if each.message_type is None else min(count, 20)):
            if each.message_type is None:
                value.append(draw(_BY_TYPE[each.type]))
            elif depth < _MOST_DEPTH:
                _spoil(value.add(), draw, depth + 1)
    elif each.message_type is None:
        setattr(message, each.name, draw(_BY_TYPE[each.type]))
    else:
        value.SetInParent()
        if depth < _MOST_DEPTH:
            _spoil(value, draw, depth + 1)


def _spoil_map(value: Any, entry: Any, draw: _Draw, depth: int) -> None:
    key, held = entry.fields_by_name["key"], entry.fields_by_name["value"]
    for _ in range(draw(st.sampled_from([1, 3, 40]))):
        name = draw(_BY_TYPE[key.type])
        if held.message_type is None:
            value[name] = draw(_BY_TYPE[held.type])
        elif depth < _MOST_DEPTH:
            _spoil(value[name], draw, depth + 1)


def mutated(chance: random.Random) -> tuple[str, bytes]:
    """(method, bytes): the bytes of an honest request, damaged; now and then of another method's, or no message."""
    kind = chance.choice(list(METHODS))
    data = bytearray(chance.choice(CORPUS[kind]).SerializeToString())
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        chance.choice(_DAMAGES)(data, chance)
    return METHODS[chance.choice(list(METHODS)) if chance.random() < 0.05 else kind], bytes(data)


def _flip(data: bytearray, chance: random.Random) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _write(data: bytearray, chance: random.Random) -> None:
    if data:
        data[chance.randrange(len(data))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data) + 1) :]


def _drop(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data) + 1)
    del data[start : start + chance.randrange(8)]


def _insert(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data) + 1)
    data[start:start] = chance.randbytes(chance.choice((1, 2, 8, 64)))


def _splice(data: bytearray, chance: random.Random) -> None:
    """Protobuf merges what is put together: fields of two requests, or of one within another."""
    other = chance.choice(CORPUS[chance.choice(list(METHODS))]).SerializeToString()
    start = chance.randrange(len(other) + 1)
    place = chance.choice((len(data), chance.randrange(len(data) + 1)))
    data[place:place] = other[start if chance.random() < 0.5 else 0 :]


def _replace(data: bytearray, chance: random.Random) -> None:
    data[:] = chance.randbytes(chance.randrange(200))


_DAMAGES = [_flip, _flip, _write, _cut, _drop, _insert, _splice, _splice, _replace]
