"""The conformance program of the asyncio client: python conformance_async.py ADDRESS SUITE."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from conformance import Result, request_of
from thermostat import AsyncClient, ThermostatError


async def run(client: AsyncClient, scenario: dict[str, Any]) -> dict[str, Any]:
    """Run one scenario."""
    result = Result(scenario)
    try:
        events = client.generate(request_of(scenario), timeout=scenario.get("deadline_seconds"))
        async for event in events:
            if result.add(event):
                events.cancel()
    except ThermostatError as error:
        result.fail(error)
    return result.line


async def main(address: str, suite: str) -> None:
    """Run every scenario of a suite."""
    async with AsyncClient(address) as client:
        for scenario in json.loads(Path(suite).read_text())["scenarios"]:
            print(json.dumps(await run(client, scenario)), flush=True)


asyncio.run(main(*sys.argv[1:]))
