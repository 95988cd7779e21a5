"""Several generations at once: their events in the order in which they arrive."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence

from thermostat.client import Generation
from thermostat.errors import ThermostatError
from thermostat.events import Event


def together(generations: Sequence[Generation]) -> Iterator[tuple[int, Event | ThermostatError]]:
    """Pairs of a generation's place and its next event; a failure ends that generation alone.

    Leaving the loop cancels them all.
    """
    arrived: queue.SimpleQueue[tuple[int, Event | ThermostatError | None]] = queue.SimpleQueue()

    def read(place: int, generation: Generation) -> None:
        try:
            for event in generation:
                arrived.put((place, event))
        except ThermostatError as error:
            arrived.put((place, error))
        finally:
            arrived.put((place, None))

    try:
        for place, generation in enumerate(generations):
            threading.Thread(target=read, args=(place, generation), daemon=True).start()
        running = len(generations)
        while running:
            place, event = arrived.get()
            if event is None:
                running -= 1
            else:
                yield place, event
    finally:
        for generation in generations:
            generation.cancel()
