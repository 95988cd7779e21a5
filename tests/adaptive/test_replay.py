"""A batch's step that is done again from a capture goes on as the steps before it, in Triton's interpreter."""

import pytest
import torch

from adaptive import (
    EntropyFeedback,
    Filters,
    Fixed,
    Mirostat,
    Penalties,
    Rows,
    RowSettings,
    TargetEntropy,
    accelerator,
    step,
)
from adaptive.sampler import Masks
from tests.interpreted import fused, replay

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of infinities in the interpreter
SETTINGS = [
    RowSettings(EntropyFeedback(1.0), Filters(top_p=0.9), seed=1),
    RowSettings(Mirostat(2.0), seed=2, candidates=2),
    RowSettings(TargetEntropy(1.5), Filters(top_k=9), seed=3),
]


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    for name, value in {"BLOCK": 16, "KEEP": 5, "TILE": 64}.items():
        monkeypatch.setattr(fused, name, value)
    monkeypatch.setattr(replay, "_RIPE", 2)
    monkeypatch.setattr(accelerator, "kernels", lambda device: fused)


def batches(rows: int, steps: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(rows, 100, generator=generator) * 2.0 for _ in range(steps)]


def counted(runs: list):
    """A recorder that captures nothing and does everything again."""

    def record(run):
        runs.append(0)

        def again():
            runs[-1] += 1
            return run()

        return again

    return record


def test_tokens_figures_and_states_are_those_of_uncaptured_steps():
    plain, ours, runs = Rows(SETTINGS), Rows(SETTINGS), []
    replayed = replay.Replay(counted(runs))
    buffer = torch.empty(3, 100)
    for logits in batches(3, 5):
        expected_tokens, expected = step(logits, plain)
        buffer.copy_(logits)
        tokens, report = replayed.step(buffer, ours)
        assert torch.equal(tokens, expected_tokens)
        assert torch.equal(report.packed.nan_to_num(-1.0), expected.packed.nan_to_num(-1.0))
    assert runs == [4]
    assert torch.equal(ours.positions, plain.positions)
    # And the batch that follows goes on from there.
    plain, ours = plain.change([0, 1]), ours.change([0, 1])
    (logits,) = batches(2, 1)
    tokens, _ = replayed.step(logits, ours)
    assert torch.equal(tokens, step(logits, plain)[0])


def test_a_step_with_masks_in_between_takes_its_number_too():
    plain, ours = Rows(SETTINGS), Rows(SETTINGS)
    replayed, buffer = replay.Replay(counted([])), torch.empty(3, 100)
    for number, logits in enumerate(batches(3, 7)):
        masks = Masks((torch.tensor([1]), torch.tensor([4]))) if number in (3, 4) else None
        buffer.copy_(logits)
        assert torch.equal(replayed.step(buffer, ours, masks)[0], step(logits, plain, masks)[0])


def test_what_the_host_has_a_part_in_is_not_captured():
    for settings in (
        RowSettings(Fixed(), Filters(typical_p=0.5)),
        RowSettings(Fixed(), penalties=Penalties(repetition=1.2)),
        RowSettings(Fixed(), bias={1: 2.0}),
    ):
        runs: list[int] = []
        replayed, rows = replay.Replay(counted(runs)), Rows([settings])
        for _ in range(3):
            replayed.step(torch.zeros(1, 100), rows)
        assert runs == []


def test_a_capture_that_fails_is_told_and_changes_nothing(caplog):
    def refuse(run):
        raise RuntimeError("no capture here")

    plain, ours = Rows(SETTINGS[:1]), Rows(SETTINGS[:1])
    replayed, logits = replay.Replay(refuse), torch.zeros(1, 100)
    for _ in range(3):
        assert torch.equal(replayed.step(logits, ours)[0], step(logits, plain)[0])
    assert "no capture here" in caplog.text
