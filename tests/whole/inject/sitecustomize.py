"""Python loads this at its start when this folder is on PYTHONPATH. It makes the engine of a server fail, once, for
every file with the name of a fault that appears in the folder $FAULTS; and whenever it computes the token $TOO_MUCH."""

import os
import sys
import threading
import time


def _due(fault):
    path = os.path.join(os.environ["FAULTS"], fault)
    if not os.path.exists(path):
        return False
    os.unlink(path)
    return True


def _forward(inner):
    def forward(self, pieces, last_tokens):
        if _due("a step hangs"):
            time.sleep(1000)
        if _due("a step raises"):
            raise RuntimeError("a step raises, as a test wants it")
        if any(int(os.environ["TOO_MUCH"]) in (piece.tokens or ()) for piece in pieces):
            raise MemoryError("no memory for this prompt, as a test wants it")
        return inner(self, pieces, last_tokens)

    return forward


def _plan(inner):
    def plan(self):
        if _due("the engine raises"):
            raise RuntimeError("the engine raises, as a test wants it")
        return inner(self)

    return plan


def _install():
    # Once all of it is imported: two threads that import each other's halves break one another.
    while not hasattr(sys.modules.get("server.app"), "serve"):
        time.sleep(0.01)
    from server.engine.model import Model
    from server.engine.scheduler import Scheduler

    Model.forward, Scheduler.plan = _forward(Model.forward), _plan(Scheduler.plan)


if "FAULTS" in os.environ:
    threading.Thread(target=_install, daemon=True).start()
