"""A policy of an installed package, over a socket."""

import pytest

from tests.plugin.install import install
from tests.whole.conftest import process
from tests.whole.runs import PROMPT, bits, run
from thermostat import Client, Fixed, InvalidRequest, ModelNotFound, Output, Phase, Phased, Plugin, ServerFault
from thermostat.together import together

ASKED = {"seed": 4, "ignore_eos": True, "max_output_tokens": 20}
SWAY = Plugin("sway", {"base": 1.0, "swing": 0.5, "period": 4})


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A client of a server in whose environment the example package is installed, beside one that is broken."""
    folder = tmp_path_factory.mktemp("plugin")
    site, log = install(folder), folder / "log"
    broken = site / "broken-1.0.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (broken / "entry_points.txt").write_text("[thermostat.policies]\nlost = no_such_module:Policy\n")
    with process("--log-level", "warning", log=log, PYTHONPATH=str(site)) as (_, address), Client(address) as client:
        client.log = log
        yield client


def test_an_installed_policy_is_listed_after_the_built_in_ones(served):
    listed = served.policies()
    assert [one.name for one in listed if one.plugin] == [listed[-1].name] == ["sway"]
    parameters = {one.name: one for one in listed[-1].parameters}
    assert (parameters["period"].integer, parameters["period"].minimum, parameters["period"].number) == (True, 2, 8)
    assert list(parameters["shape"].choices) == ["sine", "square"]
    assert [(one.name, one.unit) for one in listed[-1].state] == [("steps", "tokens")]


def test_a_broken_package_is_left_out_and_the_servers_log_says_why(served):
    served.policies()
    assert "policy lost of package broken is left out: ModuleNotFoundError" in served.log.read_text()


def test_an_installed_policy_sets_the_temperature_and_reports_its_state(served):
    started, tokens, _, _ = run(served.generate(PROMPT, policy=SWAY, **ASKED))
    infos = [token.sampling_info for token in tokens]
    assert [info.temperature for info in infos[:5]] == pytest.approx([1.0, 1.5, 1.0, 0.5, 1.0])
    assert [info.policy_state.values["steps"] for info in infos] == [float(step) for step in range(1, 21)]
    assert started.policy.plugin.name == "sway"
    assert dict(started.policy.plugin.parameters) == {"base": 1.0, "swing": 0.5, "period": 4.0, "shape": "sine"}


def test_an_installed_policy_resumes_and_serves_as_a_phase(served):
    _, uncut, _, _ = run(served.generate(PROMPT, policy=SWAY, **ASKED))
    _, first, finished, _ = run(served.generate(PROMPT, policy=SWAY, **(ASKED | {"max_output_tokens": 7})))
    _, rest, _, _ = run(served.generate(PROMPT, policy=SWAY, **ASKED, resume=finished.resume))
    assert bits(first + rest) == bits(uncut)
    phased = Phased([Phase(SWAY, 3), Phase(Fixed(0.9))])
    _, tokens, _, _ = run(served.generate(PROMPT, policy=phased, **ASKED))
    temperatures = [token.sampling_info.temperature for token in tokens[:5]]
    assert temperatures == pytest.approx([1.0, 1.5, 1.0, 0.9, 0.9])


@pytest.mark.parametrize(
    ("parameters", "field", "said"),
    [
        ({"period": 2.5}, "period", "whole number at least 2"),
        ({"shape": "round"}, "shape", "one of sine, square"),
        ({"base": "hot"}, "base", "finite number above 0"),
        ({"swing": 1.5}, "swing", "below base, which is 1"),
        ({"speed": 1.0}, "speed", "base, swing, period"),
    ],
)
def test_a_parameter_that_is_wrong_is_named(parameters, field, said, served):
    with pytest.raises(InvalidRequest) as refused:
        run(served.generate(PROMPT, policy=Plugin("sway", parameters), **ASKED))
    (violation,) = refused.value.violations
    assert violation.field == f"policy.plugin.parameters.{field}"
    assert said in violation.description


def test_a_policy_that_is_not_installed_is_not_found(served):
    with pytest.raises(ModelNotFound, match="sway"):
        run(served.generate(PROMPT, policy=Plugin("lost"), **ASKED))


def test_a_policy_that_raises_ends_its_own_request_only(served):
    """Four streams in one batch, three of them under the same installed policy."""
    failing = Plugin("sway", {**SWAY.parameters, "fail_at": 5})
    policies = [SWAY, failing, Fixed(0.8), SWAY]
    asked = [{"policy": policy, **ASKED, "seed": seed} for seed, policy in enumerate(policies)]
    drawn = [[] for _ in policies]
    ends = [None for _ in policies]
    for place, event in together([served.generate(PROMPT, **one) for one in asked]):
        if isinstance(event, Output):
            drawn[place] += event.tokens
        else:
            ends[place] = event
    assert isinstance(ends[1], ServerFault)
    assert "the policy failed: ArithmeticError: it was asked to fail, at output token 5" in str(ends[1])
    assert len(drawn[1]) == 5
    for place in (0, 2, 3):
        _, alone, _, _ = run(served.generate(PROMPT, **asked[place]))
        assert bits(drawn[place]) == bits(alone)
