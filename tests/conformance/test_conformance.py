"""Every client runs every scenario against one live server, and against one of the contract's future."""

import json
from collections.abc import Iterator

import pytest

from tests.conformance.future_server import future_server
from tests.conformance.programs import CHOSEN, program
from tests.conformance.suite import EXPECTED, FUTURE, LIVE, Program, differences, late, outcome, scenarios, table
from tests.whole.conftest import process


@pytest.fixture(scope="module")
def live() -> Iterator[str]:
    """A server with one place, so that a generation that was not cancelled makes the next one wait."""
    with process("--max-rows", "1", "--dtype", "float32", "--log-level", "warning") as (_, address):
        yield address


def run(client: Program, live: str) -> dict[str, list[str]]:
    """What is wrong with a client's results, by scenario."""
    expected, wrong = json.loads(EXPECTED.read_text()), {}
    with future_server() as future:  # a new one each time: it refuses the first try
        for address, suite in ((live, LIVE), (future, FUTURE)):
            results = {result["scenario"]: result for result in client.run(address, suite)}
            for scenario in scenarios(suite):
                name = scenario["name"]
                result = results[name]
                wrong[name] = differences(expected[name], outcome(scenario, result))
                wrong[name] += ["it had to wait for a place"] if late(result) else []
    return wrong


def test_every_client_gets_what_is_expected_in_every_scenario(live, capsys):
    rows = {client: run(program(client, "conformance"), live) for client in CHOSEN}
    with capsys.disabled():
        print("\n" + table(rows))
    wrong = {(client, name): found for client, row in rows.items() for name, found in row.items() if found}
    assert not wrong
