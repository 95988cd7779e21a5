"""Constrained output: the text has the form, and the original entropy stays the model's own."""

import json
import re

import pytest

from tests.whole.runs import POLICIES, PROMPT, run
from thermostat import Fixed, InvalidRequest, TargetEntropy
from thermostat.v1 import generation_pb2 as pb

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "sizes": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 999}, "maxItems": 3},
    },
    "required": ["name", "sizes"],
    "additionalProperties": False,
}
GRAMMAR = 'start: "if " NAME (" and " NAME)* ":"\nNAME: /[a-z_]{1,8}/'


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_keeps_to_a_regular_expression(name, client):
    form = r"[a-z]{3,9}\([a-z]{0,5}\)"
    asked = {"policy": POLICIES[name], "constraint": {"regex": form}, "max_output_tokens": 64}
    for seed in range(4):
        _, drawn, finished, text = run(client.generate(PROMPT, seed=seed, **asked))
        assert re.fullmatch(form, text)
        assert finished.reason == pb.FINISH_REASON_EOS
        assert all(token.HasField("filtered_logprob") for token in drawn)


def test_a_schema_gives_a_document_that_fulfils_it(client):
    found = set()
    for seed in range(8):
        _, _, finished, text = run(
            client.generate(
                PROMPT,
                seed=seed,
                policy=Fixed(0.7),
                constraint={"json_schema": json.dumps(SCHEMA)},
                max_output_tokens=400,
            )
        )
        if finished.reason == pb.FINISH_REASON_EOS:
            document = json.loads(text)
            assert set(document) == {"name", "sizes"}
            assert len(document["name"]) <= 12
            assert all(isinstance(size, int) and 0 <= size <= 999 for size in document["sizes"])
            found.add(text)
    assert len(found) >= 3


def test_a_grammar_gives_a_sentence_of_it(client):
    _, _, _, text = run(client.generate(PROMPT, seed=4, constraint={"grammar": GRAMMAR}, max_output_tokens=64))
    assert re.fullmatch(r"if [a-z_]{1,8}( and [a-z_]{1,8})*:", text)


def test_the_original_entropy_is_the_models_own_and_the_mass_left_is_told(client):
    asked = {"seed": 1, "policy": TargetEntropy(1.0), "max_output_tokens": 1}
    _, (free,), _, _ = run(client.generate(PROMPT, **asked, candidates=20))
    _, (bound,), _, _ = run(client.generate(PROMPT, **asked, candidates=20, constraint={"regex": "[0-9]+ apples"}))
    assert bound.sampling_info.original_entropy == free.sampling_info.original_entropy
    assert bound.sampling_info.varentropy == free.sampling_info.varentropy
    assert 0 < bound.sampling_info.constraint_mass < 0.1
    assert not free.sampling_info.HasField("constraint_mass")
    assert [c.logprob for c in bound.candidates] == [c.logprob for c in free.candidates]
    assert not any(c.HasField("filtered_logprob") for c in bound.candidates if not c.token_bytes.isdigit())


@pytest.mark.parametrize(
    ("asked", "fields"),
    [
        ({"constraint": {"regex": "(a"}}, ["constraint.regex"]),
        ({"constraint": {"regex": "x" * 70_000}}, ["constraint.regex"]),
        ({"constraint": {"json_schema": "{"}}, ["constraint.json_schema"]),
        ({"constraint": {"json_schema": '{"type": "objct"}'}}, ["constraint.json_schema"]),
        ({"constraint": {"grammar": "start: nothing"}}, ["constraint.grammar"]),
        ({"constraint": pb.Constraint()}, ["constraint.form"]),
        ({"constraint": {"regex": "a"}, "ignore_eos": True}, ["stopping.ignore_eos"]),
    ],
)
def test_a_form_that_cannot_be_is_refused_with_its_field(asked, fields, client):
    with pytest.raises(InvalidRequest) as refused:
        run(client.generate(PROMPT, **asked))
    assert [violation.field for violation in refused.value.violations] == fields
