"""Write expected.json: what the Python client gets from the embedded model in float32, and from the future's server.

python -m tests.conformance.generate
"""

import json
from typing import Any

from tests.conformance.future_server import future_server
from tests.conformance.programs import program
from tests.conformance.suite import EXPECTED, FUTURE, LIVE, outcome, scenarios
from tests.whole.conftest import process


def rounded(value: Any) -> Any:
    """The same with floats of six decimals."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return round(value, 6) if isinstance(value, float) else value


def main() -> None:
    """Run both suites and write one line a scenario."""
    expected = {}
    with process("--max-rows", "1", "--dtype", "float32") as (_, live), future_server() as future:
        for address, suite in ((live, LIVE), (future, FUTURE)):
            results = program("python", "conformance").run(address, suite)
            for scenario, result in zip(scenarios(suite), results, strict=True):
                expected[scenario["name"]] = rounded(outcome(scenario, result))
    lines = [f"{json.dumps(name)}: {json.dumps(each, ensure_ascii=False)}" for name, each in expected.items()]
    EXPECTED.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
