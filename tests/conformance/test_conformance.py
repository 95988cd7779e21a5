"""Every client runs every scenario against one live server, and against one of the contract's future."""

import json
from pathlib import Path
from typing import Any

from tests.conformance import released, servers
from tests.conformance.programs import CHOSEN, PREVIOUS, program
from tests.conformance.suite import EXPECTED, FUTURE, LIVE, differences, late, outcome, scenarios, table


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
    found = outcome(scenario, result)
    if client in PREVIOUS:
        expected, found = released.seen(expected), released.seen(found)
    return differences(expected, found) + (["it had to wait for a place"] if late(result) else [])


def test_every_client_gets_what_is_expected_in_every_scenario(live, tmp_path, capsys):
    rows = {}
    for client in CHOSEN:
        with servers.future() as future:  # a new one each time: it refuses the first try
            of_live = ask(client, live.of(client), LIVE, tmp_path)
            rows[client] = of_live | ask(client, future.of(client), FUTURE, tmp_path)
    with capsys.disabled():
        print("\n" + table(rows))
    assert not {(client, name): found for client, row in rows.items() for name, found in row.items() if found}


def test_a_resumed_generation_is_expected_to_be_the_rest_of_the_uncut_one():
    expected = json.loads(EXPECTED.read_text())
    uncut, resumed = expected["entropy_feedback"]["tokens"], expected["resume"]["tokens"]
    assert 0 < len(resumed) < len(uncut)
    assert not differences(uncut[-len(resumed) :], resumed)
