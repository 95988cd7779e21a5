"""Write expected.json: what the Python client gets from the embedded model in float32, and from the future's server.

python -m tests.conformance.generate
"""

import json
from typing import Any

from tests.conformance import servers
from tests.conformance.programs import program
from tests.conformance.suite import EXPECTED, FUTURE, LIVE, outcome, scenarios


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
    with servers.live() as live, servers.future() as future:
        for address, suite in ((live.grpc, LIVE), (future.grpc, FUTURE)):
            results = program("python", "conformance").run(address, suite)
            for scenario, result in zip(scenarios(suite), results, strict=True):
                expected[scenario["name"]] = rounded(outcome(scenario, result))
    lines = [f"{json.dumps(name)}: {json.dumps(each, ensure_ascii=False)}" for name, each in expected.items()]
    EXPECTED.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
