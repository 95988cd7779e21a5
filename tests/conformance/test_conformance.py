"""Every client runs every scenario against one live server, and against one of the contract's future."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import released
from tests.conformance.future_server import future_server
from tests.conformance.programs import CHOSEN, PREVIOUS, program
from tests.conformance.suite import EXPECTED, FUTURE, LIVE, differences, late, outcome, scenarios, table
from tests.whole.conftest import process


@pytest.fixture(scope="module")
def live() -> Iterator[str]:
    """A server with one place, so that a generation that was not cancelled makes the next one wait."""
    with process("--max-rows", "1", "--dtype", "float32", "--log-level", "warning") as (_, address):
        yield address


def ask(client: str, address: str, suite: Path, folder: Path) -> dict[str, list[str]]:
    """What is wrong with a client's results, by scenario. A client of the released contract is asked what it can."""
    expected = json.loads(EXPECTED.read_text())
    asked = [each for each in scenarios(suite) if client not in PREVIOUS or released.can_send(each)]
    given = folder / f"{client}-{suite.name}"
    given.write_text(json.dumps({"scenarios": asked}))
    results = program(client, "conformance").run(address, given)
    return {
        scenario["name"]: wrong(client, scenario, result, expected[scenario["name"]])
        for scenario, result in zip(asked, results, strict=True)
    }


def wrong(client: str, scenario: dict[str, Any], result: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """What is wrong with one result."""
    assert result["scenario"] == scenario["name"]
    found = differences(released.seen(expected) if client in PREVIOUS else expected, outcome(scenario, result))
    return found + (["it had to wait for a place"] if late(result) else [])


def test_every_client_gets_what_is_expected_in_every_scenario(live, tmp_path, capsys):
    rows = {}
    for client in CHOSEN:
        with future_server() as future:  # a new one each time: it refuses the first try
            rows[client] = ask(client, live, LIVE, tmp_path) | ask(client, future, FUTURE, tmp_path)
    with capsys.disabled():
        print("\n" + table(rows))
    assert not {(client, name): found for client, row in rows.items() for name, found in row.items() if found}
