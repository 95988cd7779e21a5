"""docs/policies.md says what the code does: its tables, its plots, its settings and its example."""

import contextlib
import importlib.util
import io
import re

import pytest

from adaptive import POLICIES, PRESETS
from server.convert.policies import read_policy
from tests.test_architecture import ROOT
from thermostat.policies import to_message

DOCS = ROOT / "docs"
PAGE = (DOCS / "policies.md").read_text()


def script(name):
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


drawing = script("draw_policies")


def test_the_tables_are_those_of_the_code():
    assert script("write_tables").written(PAGE) == PAGE, "run python docs/write_tables.py"


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_has_its_place_with_plot_parameters_and_state(name):
    section = PAGE.split(f"\n### {name}\n")[1].split("\n### ")[0]
    assert f"](policies/{name}.svg)" in section
    assert (f"<!-- table: parameters of {name} -->" in section) == any(POLICIES[name].parameters())
    assert (f"<!-- table: state of {name} -->" in section) == bool(POLICIES[name].state)


@pytest.mark.parametrize("name", POLICIES)
def test_the_plots_are_those_of_the_code(name):
    """By points that are written into each picture; another processor may round them otherwise."""
    numbers = re.compile(r"\d+\.\d{3}")
    drawn = re.search(r"<dc:description>(.*?)</dc:description>", (DOCS / f"policies/{name}.svg").read_text(), re.DOTALL)
    now = drawing.digest(name)
    assert numbers.sub("", drawn[1]) == numbers.sub("", now), "run python docs/draw_policies.py"
    pairs = zip(numbers.findall(drawn[1]), numbers.findall(now), strict=True)
    assert all(abs(float(one) - float(other)) < 0.02 for one, other in pairs), "run python docs/draw_policies.py"


def test_every_setting_that_is_written_out_is_one():
    settings = re.findall(r"`(?:--policy )?((?:" + "|".join(POLICIES) + r"|preset):[^`]+)`", PAGE)
    assert len(settings) >= 4
    for words in settings:
        violations = []
        read_policy(to_message(words), "policy", violations)
        assert not violations, words


def test_parameters_and_presets_that_the_dictionary_names_exist():
    """In the column of what a setting is called here, every word in code is a name of ours."""
    ours = {parameter.name for kind in POLICIES.values() for parameter in kind.parameters()} | set(POLICIES)
    ours |= set(PRESETS) | set(script("write_tables").Filters.__slots__) | {"logit_bias"}
    ours |= set(script("write_tables").Penalties.__slots__)
    table = PAGE.split("## Find your setting")[1].split("\n## ")[0]
    named = [code for line in table.splitlines()[3:] if line for code in re.findall("`([^`]+)`", line.split(" | ")[-1])]
    assert len(named) > 60
    for code in named:
        word = re.split("[=:]", code)[0]
        assert word in ours, code


def test_the_example_for_hugging_face_runs(monkeypatch):
    code = re.search(r"<!-- runs -->\n```python\n(.*?)```", PAGE, re.DOTALL)[1]
    monkeypatch.chdir(ROOT)
    with contextlib.redirect_stdout(io.StringIO()) as told:
        exec(compile(code, "docs/policies.md", "exec"), {})
    lines = told.getvalue().splitlines()
    assert 0 < len(lines) <= 32
    assert all(len(re.findall(r"\d\.\d+", line)) >= 3 for line in lines)
    assert len(code.strip().splitlines()) <= 12


def test_every_make_target_that_is_named_is_there():
    """In the pages, and in .PHONY, which would make a missing one look as if there were nothing to do."""
    makefile = (ROOT / "Makefile").read_text()
    pages = "".join(page.read_text() for page in (ROOT / "README.md", *DOCS.glob("*.md")))
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.M)[1].replace("$(BUILDS)", "")
    named = {*re.findall(r"`make ([a-z-]+)", pages), *phony.split()}
    assert named - {*re.findall(r"^([a-z-]+):", makefile, re.M)} == set()
