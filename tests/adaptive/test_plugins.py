"""Policies of installed packages: what is found, what is left out and why; a bad one harms its own row only."""

import importlib
import logging
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from adaptive import Course, Filters, Fixed, ParameterError, Policy, Rows, RowSettings, plugins, step
from adaptive.parameters import number
from adaptive.policies import Control, StateValue
from tests.plugin.install import install


@pytest.fixture
def found():
    """A function that gives what is installed now."""

    def look():
        plugins.installed.cache_clear()
        importlib.invalidate_caches()
        return plugins.installed()

    yield look
    plugins.installed.cache_clear()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return install(tmp_path_factory.mktemp("plugin"))


def fake_package(folder, name, target):
    """An installed package that has nothing but an entry point."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\n{target}\n")


def test_an_installed_package_adds_its_policy(site, found, monkeypatch):
    assert "sway" not in found()
    monkeypatch.syspath_prepend(site)
    kind = found()["sway"]
    assert found() is not found() and plugins.installed() is plugins.installed()
    assert kind.summary().startswith("Temperature that sways around a base")
    assert [parameter.name for parameter in kind.parameters()][:3] == ["base", "swing", "period"]
    with pytest.raises(ParameterError, match=r"period: must be a whole number at least 2 and at most 1000"):
        kind(period=2.5)
    with pytest.raises(ParameterError, match="swing: must be below base, which is 1"):
        kind(swing=1.0)


def test_an_installed_policy_keeps_its_state_in_a_step(site, found, monkeypatch):
    monkeypatch.syspath_prepend(site)
    kind = found()["sway"]
    rows = Rows([RowSettings(kind(base=1.0, swing=0.5, period=4)), RowSettings(Fixed()), RowSettings(kind(period=2))])
    temperatures = []
    for _ in range(5):
        _, report = step(torch.randn(3, 20), rows)
        temperatures.append(report.records()[0][0].temperature)
    assert temperatures == pytest.approx([1.0, 1.5, 1.0, 0.5, 1.0])
    assert report.records()[0][0].state == (5.0,)


BROKEN = {
    "missing = no_such_module:Policy": "ModuleNotFoundError",
    "absent = thermostat_broken:Absent": "has no attribute 'Absent'",
    "number = thermostat_broken:NUMBER": "no subclass",
    "other = thermostat_broken:Named": "class's name is 'named'",
    "fixed = thermostat_broken:Builtin": "built-in policy",
    "idle = thermostat_broken:Idle": "does not define control",
    "default = thermostat_broken:Default": "gain: must be a finite number at most 1",
    "plain = thermostat_broken:Plain": "dataclass",
    "needs = thermostat_broken:Needs": "missing 1 required positional argument",
    "helpless = thermostat_broken:Helpless": "help",
    "state = thermostat_broken:State": "initial_state",
    "exits = thermostat_exits:Policy": "SystemExit",
}
SOURCE = """
from dataclasses import dataclass, field
from typing import ClassVar
from adaptive import Fixed, Policy
from adaptive.parameters import number
from adaptive.policies import Control, StateValue

NUMBER = 3

class Working(Policy):
    @classmethod
    def control(cls, statistics, parameters, state):
        return Control(statistics.entropy)

@dataclass(frozen=True)
class Named(Working):
    name: ClassVar[str] = "named"

@dataclass(frozen=True)
class Builtin(Working):
    name: ClassVar[str] = "fixed"

@dataclass(frozen=True)
class Idle(Policy):
    name: ClassVar[str] = "idle"

@dataclass(frozen=True)
class Default(Working):
    name: ClassVar[str] = "default"
    gain: float = number(2.0, "Gain.", maximum=1.0)

class Plain(Working):
    name = "plain"

@dataclass(frozen=True)
class Needs(Working):
    name: ClassVar[str] = "needs"
    gain: float = field(metadata={"help": "Gain."})

@dataclass(frozen=True)
class Helpless(Working):
    name: ClassVar[str] = "helpless"
    gain: float = 1.0

@dataclass(frozen=True)
class State(Working):
    name: ClassVar[str] = "state"
    state: ClassVar = (StateValue("mean", "A mean."),)
    def initial_state(self):
        return {"mu": 0.0}
"""


def test_a_broken_package_is_left_out_and_the_log_says_why(tmp_path, found, monkeypatch, caplog):
    (tmp_path / "thermostat_broken.py").write_text(SOURCE)
    (tmp_path / "thermostat_exits.py").write_text("raise SystemExit(3)")
    for place, target in enumerate([*BROKEN, "named = thermostat_broken:Named"]):
        fake_package(tmp_path, f"broken{place}", target)
    monkeypatch.syspath_prepend(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert [*found()] == ["named"]
    for target, reason in BROKEN.items():
        name = target.split(" = ")[0]
        said = [
            record.getMessage()
            for record in caplog.records
            if f"policy {name} of package broken" in record.msg % record.args
        ]
        assert len(said) == 1 and reason in said[0], (name, said)
    sys.modules.pop("thermostat_broken")


def test_of_two_packages_with_one_name_the_second_is_left_out(tmp_path, site, found, monkeypatch, caplog):
    fake_package(tmp_path, "again", "sway = thermostat_sway:Sway")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(site)
    assert found()["sway"].__module__ == "thermostat_sway"
    assert "another package has a policy of this name" in caplog.text


# A policy that misbehaves for one row. What it does is chosen by `fault`; its neighbours are of the same kind.


@dataclass(frozen=True, slots=True)
class Stranger(Policy):
    """Right, unless it is asked to go wrong."""

    name: ClassVar[str] = "stranger"
    state: ClassVar[tuple[StateValue, ...]] = (StateValue("steps", "Steps."),)
    sets_filters: ClassVar[bool] = True
    wrong: float = number(0.0, "1 to go wrong.")
    fault: ClassVar[str] = ""

    @classmethod
    def _does(cls, fault, parameters):
        return cls.fault == fault and bool((parameters["wrong"] == 1).any())

    @classmethod
    def control(cls, statistics, parameters, state):
        t = 1.0 + 0.1 * state["steps"] + 0.01 * statistics.logits.amax(-1)
        control = Control(t, saturated=t > 1, top_k=torch.full_like(t, 5.0))
        for fault, change in CONTROL.items():
            if cls._does(fault, parameters):
                control = change(control, parameters["wrong"] == 1)
        return control

    @classmethod
    def reshape(cls, probabilities, parameters, state):
        for fault, change in RESHAPE.items():
            if cls._does(fault, parameters):
                return change(probabilities, (parameters["wrong"] == 1)[:, None])
        return probabilities

    @classmethod
    def absorb(cls, parameters, state, outcome):
        for fault, change in ABSORB.items():
            if cls._does(fault, parameters):
                return change(state["steps"] + 1)
        return {"steps": state["steps"] + 1}


def raising(*_):
    raise ArithmeticError("as asked")


CONTROL = {
    "control raises": raising,
    "control gives nothing": lambda control, wrong: None,
    "temperature of a wrong shape": lambda control, wrong: Control(control.temperature[:, None]),
    "temperature is a string": lambda control, wrong: Control("hot"),
    "temperature is a number": lambda control, wrong: Control(1.0),
    "temperature is complex": lambda control, wrong: Control(control.temperature.to(torch.complex64)),
    "temperature is NaN": lambda control, wrong: Control(
        control.temperature.masked_fill(wrong, torch.nan), control.saturated, top_k=control.top_k
    ),
    "temperature is infinite": lambda control, wrong: Control(
        control.temperature.masked_fill(wrong, torch.inf), control.saturated, top_k=control.top_k
    ),
    "temperature is negative": lambda control, wrong: Control(
        control.temperature.masked_fill(wrong, -1.0), control.saturated, top_k=control.top_k
    ),
    "top_k of a wrong shape": lambda control, wrong: Control(control.temperature, top_k=torch.ones(7)),
    "saturated is a string": lambda control, wrong: Control(control.temperature, saturated="yes"),
}
RESHAPE = {
    "reshape raises": raising,
    "reshape gives nothing": lambda p, wrong: None,
    "reshape gives a wrong shape": lambda p, wrong: p[:, :3],
    "reshape gives NaN": lambda p, wrong: p.masked_fill(wrong, torch.nan),
    "reshape gives zero": lambda p, wrong: p.masked_fill(wrong, 0.0),
    "reshape gives negative numbers": lambda p, wrong: torch.where(wrong, 50 * p - 49 * (p > 0) / 5, p),
    "reshape brings back what was filtered": lambda p, wrong: torch.where(wrong, 1 / p.shape[-1], p),
}
ABSORB = {
    "absorb raises": raising,
    "absorb gives nothing": lambda steps: None,
    "absorb forgets a figure": lambda steps: {},
    "absorb gives a wrong shape": lambda steps: {"steps": steps[:, None]},
    "absorb gives a string": lambda steps: {"steps": "many"},
}


def three_steps(fault, wrong):
    Stranger.fault = fault
    torch.manual_seed(0)
    settings = [
        RowSettings(Stranger(), seed=1),
        RowSettings(Fixed(0.7), Filters(top_p=0.9), seed=2),
        RowSettings(Stranger(wrong), seed=3),
        RowSettings(Stranger(), seed=4),
    ]
    rows = Rows(settings)
    return [[info for info, _ in step(torch.randn(4, 300), rows)[1].records()] for _ in range(3)], rows.faults


@pytest.mark.parametrize("fault", [*CONTROL, *RESHAPE, *ABSORB])
def test_a_policy_that_goes_wrong_for_a_row_fails_that_row_and_changes_no_bit_of_another(fault):
    good, none = three_steps("", 0.0)
    found, said = three_steps(fault, 1.0)
    for infos, expected in zip(found, good, strict=True):
        assert infos[2].fault == 2
        assert [repr(infos[row]) for row in (0, 1, 3)] == [repr(expected[row]) for row in (0, 1, 3)]
        assert all(info.fault == 0 for info in expected)
    assert not none
    if "raises" in fault:
        assert said == {2: "ArithmeticError: as asked"}


@pytest.mark.parametrize("value", [-3.0, 0.0, float("-inf")])
def test_a_top_k_below_one_keeps_the_most_likely_token(value, monkeypatch):
    monkeypatch.setitem(CONTROL, "top_k", lambda c, wrong: Control(c.temperature, top_k=c.top_k * 0 + value))
    found, _ = three_steps("top_k", 1.0)
    assert [info.effective_vocab_size for info in found[0]][2] == 1


@dataclass(frozen=True, slots=True)
class Beginning(Stranger):
    """Whose beginning depends on its parameters."""

    name: ClassVar[str] = "beginning"

    def initial_state(self):
        return {"steps": float("nan")} if self.wrong else {"step": 0.0}


@pytest.mark.parametrize("wrong", [0.0, 1.0])
def test_a_beginning_that_is_no_state_is_refused_before_the_row_joins_others(wrong):
    with pytest.raises(ParameterError, match="initial_state"):
        Course(Beginning(wrong))
