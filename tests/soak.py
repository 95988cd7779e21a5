"""`make soak MINUTES=20`: mixed load with faults, and what it leaves behind. Exit status 1 if a promise broke.

Promises: every honest stream ends with the tokens that it has alone, whatever happens around it, restarts included; no
call ends UNKNOWN, INTERNAL or not at all; health answers; memory and descriptors end where they began. In the first
quarter the server is also killed, and its engine made to fail; memory is measured from then on.
"""

import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click
import grpc

from tests.whole import hostile
from tests.whole.faulty import Supervised, descriptors, resident
from tests.whole.proxy import Proxy
from tests.whole.runs import POLICIES, PROMPT, bits, run
from thermostat import Client, Finished, Output, Unavailable
from thermostat.errors import ThermostatError

ASKED = {
    name: {"policy": policy, "seed": i, "ignore_eos": True, "max_output_tokens": 10 + 20 * i, "top_p": 0.95}
    for i, (name, policy) in enumerate(POLICIES.items())
}
"""The honest requests: every kind of policy, 10 to 290 tokens."""
DEATHS = ["killed", "the engine raises"]
COMING_BACK = 60.0
"""Seconds after a death in which the server may be away."""
FAULT_SECONDS = 10.0
MOST_GROWTH = 1.10
"""Of memory, from after the first quarter to the end."""


class Soak:
    """The load, its counts, and what broke."""

    def __init__(self, server: Supervised, proxy: Proxy, pause: float) -> None:
        self.server, self.proxy, self.pause = server, proxy, pause
        self.codes: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.tokens = 0
        self.broken: list[str] = []
        self.done = threading.Event()
        self._lock = threading.Lock()
        self._died = -COMING_BACK
        self._clients = [Client(server.address), Client(proxy.address)]
        self.alone = {name: bits(run(self._clients[0].generate(PROMPT, **asked))[1]) for name, asked in ASKED.items()}

    @property
    def away(self) -> bool:
        """Whether the server may be coming back just now."""
        return time.monotonic() - self._died < COMING_BACK

    def count(self, code: str, tokens: int = 0) -> None:
        with self._lock:
            self.codes[code] += 1
            self.tokens += tokens

    def keep(self, work: Callable[[random.Random], None], seed: int) -> None:
        """Do it again and again. What finds no server while it is coming back is counted, and not held against it."""
        chance = random.Random(seed)
        while not self.done.wait(chance.expovariate(1 / self.pause)):
            try:
                work(chance)
            except ThermostatError as error:
                self.count(error.code.name)
                if not (isinstance(error, Unavailable) and self.away):
                    self.broken.append(f"{work.__name__}: {error!r}")
            except Exception as error:
                self.broken.append(f"{work.__name__}: {error!r}")

    def honest(self, chance: random.Random) -> None:
        """A stream that is read to its end, by way of the proxy or not, now and then slowly."""
        name, slow = chance.choice(list(ASKED)), chance.random() < 0.1
        drawn = []
        for event in chance.choice(self._clients).generate(PROMPT, **ASKED[name]):
            drawn += event.tokens if isinstance(event, Output) else []
            if slow:
                time.sleep(0.03)
        assert isinstance(event, Finished)
        assert bits(drawn) == self.alone[name], f"other tokens than alone: {name}"
        self.count("OK, read slowly" if slow else "OK", len(drawn))

    def leaving(self, chance: random.Random) -> None:
        """A stream that is left."""
        most, drawn = chance.randrange(1, 50), 0
        with self._clients[0].generate(PROMPT, max_output_tokens=1900, ignore_eos=True) as stream:
            while drawn < most:
                event = next(stream)
                drawn += len(event.tokens) if isinstance(event, Output) else 0
        self.count("left", drawn)

    def reading(self, chance: random.Random) -> None:
        """Scoring and counting."""
        text = PROMPT * chance.randrange(1, 20)
        count = self._clients[0].count_tokens(text).token_count
        scored = run(self._clients[0].score(text))[1]
        assert len(scored) == count - 1
        self.count("OK, scored", len(scored))

    def hostile(self, chance: random.Random) -> None:
        """Requests that no honest client sends."""
        with grpc.insecure_channel(self.server.address) as channel:
            for _ in range(10):
                method, data = hostile.mutated(chance)
                code, told = hostile.ask(channel, method, data)
                self.count(f"{code}, hostile")
                if code not in hostile.FINE and not (code == "UNAVAILABLE" and self.away):
                    self.broken.append(f"{code} ({told}) for {method} {data!r}")

    def watching(self, _: random.Random) -> None:
        """Health."""
        self._clients[0].wait_ready(COMING_BACK if self.away else 10)

    def cause(self, fault: str) -> None:
        """One fault."""
        self.faults[fault] += 1
        if fault == "connections cut":
            self.proxy.cut()
        elif fault == "connections stalled":
            self.proxy.stall()
            time.sleep(1.0)
            self.proxy.flow()
        elif fault == "client killed":
            self._kill_client()
        else:
            self._died = time.monotonic() if fault in DEATHS else self._died
            self.server.fail(fault)

    def _kill_client(self) -> None:
        code = (
            f"from thermostat import Client\nstream = Client({self.server.address!r}).generate('def ',"
            " max_output_tokens=1900, ignore_eos=True)\nnext(stream)\nprint(flush=True)\nlist(stream)\n"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as client:
            client.stdout.readline()
            client.kill()

    def measured(self) -> tuple[float, int]:
        """Memory of the server in MiB, and its descriptors."""
        pid = self.server.running.pid
        return resident(pid), descriptors(pid)

    def run(self, seconds: float) -> None:
        """All of it."""
        kinds = [self.honest] * 5 + [self.leaving, self.reading, self.hostile, self.watching]
        workers = [threading.Thread(target=self.keep, args=(work, i), daemon=True) for i, work in enumerate(kinds)]
        began = time.monotonic()
        for worker in workers:
            worker.start()
        self._cause_for(seconds / 4, [*DEATHS, "connections cut", "a step raises"], every=seconds / 20)
        before = self.measured()
        harmless = ["connections cut", "connections stalled", "client killed", "a step raises"]
        self._cause_for(began + seconds - time.monotonic(), harmless, every=FAULT_SECONDS)
        self.done.set()
        for worker in workers:
            worker.join(120)
        hanging = [work.__name__ for work, worker in zip(kinds, workers, strict=True) if worker.is_alive()]
        self.broken += [f"{name}: a call that never came back" for name in hanging]
        self.report(time.monotonic() - began, before, self.measured())

    def _cause_for(self, seconds: float, faults: list[str], every: float) -> None:
        end, turn = time.monotonic() + seconds, 0
        while time.monotonic() + every < end:
            time.sleep(every)
            self.cause(faults[turn % len(faults)])
            turn += 1
        time.sleep(max(0.0, end - time.monotonic()))

    def report(self, seconds: float, before: tuple[float, int], after: tuple[float, int]) -> None:
        if after[0] > MOST_GROWTH * before[0]:
            self.broken.append("memory has grown")
        if after[1] > before[1] + 10:
            self.broken.append("descriptors have been left open")
        if len(self.server.endings) != sum(self.faults[death] for death in DEATHS):
            self.broken.append(f"the server ended unasked: {self.server.endings}")
        print(f"{seconds / 60:.1f} minutes, {sum(self.codes.values())} calls, {self.tokens / seconds:.0f} tokens/s")
        print("calls        " + ", ".join(f"{code}: {count}" for code, count in sorted(self.codes.items())))
        print("faults       " + ", ".join(f"{fault}: {count}" for fault, count in self.faults.items()))
        print(f"memory       {before[0]:.0f} MiB after the first quarter, {after[0]:.0f} MiB at the end")
        print(f"descriptors  {before[1]} after the first quarter, {after[1]} at the end")
        print("broken       " + ("nothing" if not self.broken else "\n             ".join(self.broken[:20])))


@click.command()
@click.option("--minutes", default=5.0, show_default=True)
@click.option("--pause", default=0.1, show_default=True, help="Mean seconds between two calls of each of 9 workers.")
def main(minutes: float, pause: float) -> None:
    """Mixed load with faults."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ("--max-rows", "16", "--stall-timeout", "20", "--log-level", "error")
        with Supervised(Path(folder), *arguments) as server, Proxy(server.address) as proxy:
            soak = Soak(server, proxy, pause)
            soak.run(60 * minutes)
    sys.exit(bool(soak.broken))


if __name__ == "__main__":
    main()
