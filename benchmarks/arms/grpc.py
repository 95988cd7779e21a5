"""Ours over gRPC: a server process and the asynchronous client, which share the cores. Tokens count as they arrive."""

import argparse
import asyncio
import os
import subprocess
import sys

from benchmarks.worker import TARGET, TEMPERATURE, TOP_P, Job, Outcome, Watch, work
from thermostat import AsyncClient, Fixed, Greedy, Output, TargetEntropy


async def stream(client: AsyncClient, watch: Watch, job: Job, number: int) -> None:
    """One generation with the full info of every token."""
    policy = {"greedy": Greedy(), "fixed": Fixed(TEMPERATURE), "target": TargetEntropy(TARGET)}[job.setting]
    events = client.generate(
        job.prompts[number],
        policy=policy,
        top_p=None if job.setting == "greedy" else TOP_P,
        max_output_tokens=job.tokens,
        ignore_eos=True,
        seed=number,
    )
    async for event in events:
        if isinstance(event, Output):
            watch.take(number, *(token.token_id for token in event.tokens))


def main() -> None:
    """Work, with a server of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("dtype")
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    command = [sys.executable, "-m", "server", "--port", "0", "--model", given.model, "--dtype", given.dtype]
    command += ["--log-level", "warning", "--compile" if given.compile else "--no-compile"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as server:
        assert server.stdout is not None
        address = server.stdout.readline().removeprefix("listening on ").strip()
        try:
            with asyncio.Runner() as runner:
                client = runner.run(connect(address))

                async def run(job: Job) -> Outcome:
                    watch = Watch(job)
                    await asyncio.gather(*(stream(client, watch, job, number) for number in range(len(job.prompts))))
                    return watch.outcome

                work("grpc", lambda job: runner.run(run(job)))
        finally:
            server.terminate()


async def connect(address: str) -> AsyncClient:
    """A client of the server, once it serves."""
    client = AsyncClient(address)
    await client.wait_ready()
    return client


if __name__ == "__main__":
    main()
