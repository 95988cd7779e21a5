"""A step that is computed before the host has read the one before it changes no token, and nobody sees it."""

import pytest
import torch

from adaptive import EntropyFeedback, Filters, Fixed, Greedy, Penalties, TargetEntropy
from adaptive.policies import Phase, Phased
from adaptive.signals import Rule
from server.engine import batch
from server.engine.events import Drawn, Finished
from server.engine.request import GenerationRequest, Stopping
from tests.fakes import VOCAB, FakeModel, Harness


def spread(tokens: list[int]) -> torch.Tensor:
    """Logits of some entropy, which depend on all tokens so far; sometimes they end."""
    generator = torch.Generator().manual_seed(sum((i + 1) * token for i, token in enumerate(tokens)))
    return torch.randn(VOCAB, generator=generator) * 1.5


def requests() -> list[GenerationRequest]:
    stop = Stopping(max_output_tokens=30)
    kinds = {
        "plain": (Fixed(1.1), Filters(top_p=0.9), stop),
        "feedback": (EntropyFeedback(1.5), Filters(top_k=9), stop),
        "target": (TargetEntropy(2.0), Filters(), Stopping(max_output_tokens=17, ignore_eos=True)),
        "text": (Fixed(1.2), Filters(), Stopping(max_output_tokens=30, stop_sequences=("e", "q"), ignore_eos=True)),
        "late": (Fixed(1.0), Filters(), Stopping(max_output_tokens=30, min_output_tokens=8)),
        "short": (Fixed(1.0), Filters(), Stopping(max_output_tokens=1)),
        "phased": (Phased((Phase(Fixed(0.5), 5), Phase(Fixed(2.0)))), Filters(), stop),
    }
    made = [
        GenerationRequest(name, (3, 1 + i), policy, filters, stopping, seed=i)
        for i, (name, (policy, filters, stopping)) in enumerate(kinds.items())
    ]
    made.append(GenerationRequest("penalty", (5,), Fixed(1.0), stopping=stop, penalties=Penalties(repetition=1.3)))
    return made


def run(*wanted: GenerationRequest, rows: int = 3) -> tuple[dict, FakeModel]:
    with Harness(FakeModel(spread), rows=rows) as harness:
        harness.run(*wanted)
        ends = {r.id: next(e for e in harness.events[r.id] if isinstance(e, Finished)) for r in wanted}
        seen = {
            r.id: (harness.tokens(r.id), harness.text(r.id), ends[r.id].reason, ends[r.id].output_tokens)
            for r in wanted
        }
        assert all(type(harness.events[r.id][-1]) is Finished for r in wanted)
        assert all(
            [e.index for e in harness.events[r.id] if isinstance(e, Drawn)] == list(range(ends[r.id].output_tokens))
            for r in wanted
        )
    return seen, harness.model


def test_tokens_texts_and_ends_are_those_of_steps_that_are_read_at_once(monkeypatch):
    expected, _ = run(*requests())
    monkeypatch.setattr(batch, "_AHEAD", ("cpu",))
    assert run(*requests())[0] == expected


def test_a_row_that_ended_has_computed_one_step_more(monkeypatch):
    ends = GenerationRequest("end", (3, 1), Fixed(1.1), stopping=Stopping(max_output_tokens=60))
    expected, model = run(ends)
    steps = len(model.batches)
    monkeypatch.setattr(batch, "_AHEAD", ("cpu",))
    got, model = run(ends)
    assert got == expected and expected["end"][3] < 60
    assert len(model.batches) == steps + 1


def test_the_last_token_that_there_is_room_for_is_not_overstepped(monkeypatch):
    full = GenerationRequest("full", (3, 1), Greedy(), stopping=Stopping(max_output_tokens=20, ignore_eos=True))
    _, model = run(full)
    steps = len(model.batches)
    monkeypatch.setattr(batch, "_AHEAD", ("cpu",))
    _, model = run(full)
    assert len(model.batches) == steps


@pytest.mark.parametrize(
    "steered",
    [
        {"policy": Phased((Phase(Fixed(0.5), 5), Phase(Fixed(2.0))))},
        {"rules": (Rule("entropy_spike", action="stop"),)},
    ],
)
def test_what_a_token_steers_is_read_at_once(monkeypatch, steered):
    monkeypatch.setattr(batch, "_AHEAD", ("cpu",))
    stopping = Stopping(max_output_tokens=9, ignore_eos=True)
    known = []

    class Watching(FakeModel):
        def forward(self, pieces, last_tokens):
            known.append(sum(isinstance(event, Drawn) for event in harness.events.get("r", [])))
            return super().forward(pieces, last_tokens)

    with Harness(Watching(spread)) as harness:
        harness.run(GenerationRequest("r", (3, 1), stopping=stopping, **steered))
    assert known == list(range(9))
