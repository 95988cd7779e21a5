"""State and faults through the batch: rows join, leave and go on elsewhere; a policy that raises harms its row only."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import adaptive
from adaptive import Fault, Filters, Fixed, Greedy, History, Mirostat, Penalties, Policy, Rows, RowSettings
from adaptive.parameters import number
from adaptive.policies import Control, StateValue
from tests.adaptive.cases import EVERY_POLICY, every_kind_of_row, infos, random_logits

KINDS = every_kind_of_row()
VOCAB = 40


def test_rows_that_join_leave_and_change_places_go_on_as_they_would_alone():
    """Bit for bit, for every kind of row: what is drawn, every figure, states, penalties on what was drawn."""
    alone = [Rows([wish]) for wish in KINDS]
    present, batch = [0, 1, 2], Rows(KINDS[:3])
    joining = list(range(3, len(KINDS)))
    generator = torch.Generator().manual_seed(0)
    for step in range(30):
        logits = random_logits(len(present), VOCAB, 2.0, step)
        together = infos(logits, batch)
        for i, kind in enumerate(present):
            assert repr(infos(logits[i : i + 1], alone[kind])[0]) == repr(together[i]), KINDS[kind]
        keep = torch.randperm(len(present), generator=generator).tolist()
        if step > 12:
            keep = keep[: -len(keep) // 3 or None] or keep
        new, joining = joining[:3], joining[3:]
        batch = batch.change(keep, [KINDS[kind] for kind in new])
        present = [present[row] for row in keep] + new
    assert not joining


@pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda policy: policy.name)
def test_a_state_that_was_reported_resumes_bit_for_bit(policy):
    """Cut at every position: the state out of the report, the position, and nothing else."""
    wish = RowSettings(policy, Filters(top_p=0.9), seed=7)
    logits = [random_logits(1, VOCAB, 2.0, step) for step in range(8)]
    whole = Rows([wish])
    uncut = [infos(z, whole)[0] for z in logits]
    names = [value.name for value in policy.state]
    for cut in range(1, 8):
        state = dict(zip(names, uncut[cut - 1].state, strict=True))
        rest = Rows([RowSettings(policy, Filters(top_p=0.9), seed=7, position=cut, state=state)])
        assert [repr(infos(z, rest)[0]) for z in logits[cut:]] == [repr(info) for info in uncut[cut:]]


def test_a_row_goes_on_anew_with_its_position_and_its_history():
    penalties = Penalties(presence=5.0)
    rows = Rows([RowSettings(seed=3), RowSettings(Mirostat(), seed=4, penalties=penalties, history=History((1, 2)))])
    logits = random_logits(2, VOCAB)
    drawn = [infos(logits, rows)[1].token_id for _ in range(3)]
    changed = RowSettings(Mirostat(1.0), seed=4, penalties=penalties, history=History((1, 2)), state={"mu": 0.5})
    rows = rows.change([1, 0], anew={1: changed})
    assert rows.positions.tolist() == [3, 3]
    assert rows.groups[0].state["mu"].tolist() == [0.5]
    expected = Rows(
        [RowSettings(changed.policy, seed=4, position=3, penalties=penalties, state={"mu": 0.5},
                     history=History((1, 2), drawn))]
    )  # fmt: skip
    assert repr(infos(logits[1:], rows.change([0]))[0]) == repr(infos(logits[1:], expected)[0])


@dataclass(frozen=True, slots=True)
class Fragile(Policy):
    """Raises when told to, for its own row; sets everything that a policy can set."""

    name: ClassVar[str] = "fragile"
    sets_filters: ClassVar[bool] = True
    state: ClassVar[tuple] = (StateValue("seen", "Sum of entropies."), StateValue("count", "Tokens."))
    at_control: float = number(99.0, "The count at which control raises.")
    at_absorb: float = number(99.0, "The count at which absorb raises.")
    at_reshape: float = number(99.0, "The count at which reshape raises.")
    top_k: float = number(3.0, "What top_k is set to.")
    factor: float = number(0.8, "Temperature.")

    def initial_state(self):
        return {"count": 0.0, "seen": 0.0}  # not in the order of the declaration

    @classmethod
    def control(cls, statistics, parameters, state):
        if bool((state["count"] == parameters["at_control"]).any()):
            raise ZeroDivisionError("control of one row")
        t = parameters["factor"]
        return Control(
            t,
            saturated=t < 0.75,
            top_k=parameters["top_k"],
            top_p=torch.full_like(t, 0.9),
            max_surprisal=torch.full_like(t, 2.5),
        )

    @classmethod
    def absorb(cls, parameters, state, outcome):
        if bool((state["count"] == parameters["at_absorb"]).any()):
            raise KeyError("absorb of one row")
        return {"seen": state["seen"] + outcome.original_entropy, "count": state["count"] + 1.0}

    @classmethod
    def reshape(cls, probabilities, parameters, state):
        if bool((state["count"] == parameters["at_reshape"]).any()):
            raise RuntimeError("reshape of one row")
        sharper = probabilities.square()
        return sharper / sharper.sum(-1, keepdim=True)


@pytest.mark.parametrize("where", ["at_control", "at_absorb", "at_reshape"])
@pytest.mark.parametrize("company", ["of its kind", "of all kinds"])
def test_a_policy_that_raises_for_one_row_faults_that_row_only(where, company):
    healthy = [RowSettings(Fragile(factor=f), seed=i) for i, f in enumerate((0.7, 0.8, 0.9))]
    if company == "of all kinds":
        healthy += KINDS
    culprit = RowSettings(Fragile(**{where: 1.0}), seed=9)
    wishes = [healthy[0], culprit, *healthy[1:]]
    batch, alone = Rows(wishes), [Rows([wish]) for wish in wishes]
    for step in range(3):
        logits = random_logits(len(wishes), VOCAB, 2.0, step)
        together = infos(logits, batch)
        assert [bool(info.fault) for info in together] == [i == 1 and step == 1 for i in range(len(wishes))]
        assert batch.faults.keys() == ({1} if step == 1 else set())
        if step == 1:
            assert together[1].fault == Fault.POLICY
            assert "of one row" in batch.faults[1]
        for i, rows in enumerate(alone):
            if i != 1:
                assert repr(infos(logits[i : i + 1], rows)[0]) == repr(together[i])
        if step == 1:
            batch, alone = batch.change([0, *range(2, len(wishes))]), [alone[0], *alone[2:]]
            wishes = [wishes[0], *wishes[2:]]
            break
    logits = random_logits(len(wishes), VOCAB, 2.0, 9)
    together = infos(logits, batch)
    assert [repr(infos(logits[i : i + 1], rows)[0]) for i, rows in enumerate(alone)] == [repr(i) for i in together]


@pytest.mark.parametrize("t", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_none_faults_its_row_only(t):
    policies = [Fixed(0.5), Odd(t), Odd(0.9), Greedy()]
    got = infos(random_logits(4, VOCAB), Rows([RowSettings(policy) for policy in policies]))
    assert [info.fault for info in got] == [0, Fault.POLICY, 0, 0]


@dataclass(frozen=True, slots=True)
class Odd(Policy):
    """Gives whatever temperature it was given, and a top_k below 1."""

    name: ClassVar[str] = "odd"
    sets_filters: ClassVar[bool] = True
    t: float = 1.0

    @classmethod
    def parameters(cls):
        return iter([adaptive.parameters.Parameter("t", 1.0, "Any.")])

    def __post_init__(self):
        pass

    @classmethod
    def control(cls, statistics, parameters, state):
        return Control(parameters["t"], top_k=torch.zeros_like(parameters["t"]))


def test_a_policy_of_wrong_shapes_faults_its_own_rows_only():
    @dataclass(frozen=True, slots=True)
    class Misshapen(Policy):
        """One number where there should be a column."""

        name: ClassVar[str] = "misshapen"
        sets_filters: ClassVar[bool] = True

        @classmethod
        def control(cls, statistics, parameters, state):
            return Control(torch.ones_like(statistics.entropy), top_p=torch.ones(3, 3))

    got = infos(random_logits(3, VOCAB), Rows([RowSettings(), RowSettings(Misshapen()), RowSettings(Greedy())]))
    assert [info.fault for info in got] == [0, Fault.POLICY, 0]


def test_a_token_that_the_model_rules_out_can_be_scored_and_leaves_every_state_finite():
    """`Score` may meet a token of probability 0: its surprisal is infinite, and no mean recovers from that."""
    logits = random_logits(len(EVERY_POLICY), VOCAB)
    logits[:, 5] = -float("inf")
    rows = Rows([RowSettings(policy) for policy in EVERY_POLICY])
    for info, _ in adaptive.step(logits, rows, tokens=torch.full((len(rows),), 5))[1].records():
        assert all(abs(value) < float("inf") for value in info.state)
    after = infos(random_logits(len(EVERY_POLICY), VOCAB, 2.0, 1), rows)
    assert not any(info.fault for info in after)
