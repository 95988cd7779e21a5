"""Where a model is loaded. Which models can be: tests/whole/test_families.py."""

import threading

import pytest
import torch

from server.engine import loading
from server.engine.loading import ModelSource, load


def test_a_model_is_loaded_by_a_thread_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    # One that lived on would keep a pool of OpenMP threads, and with two pools the engine's threads do not spin.
    threads = []
    invariant = loading.make_invariant

    def spied(model: torch.nn.Module) -> str:
        threads.append(threading.current_thread())
        return invariant(model)

    monkeypatch.setattr(loading, "make_invariant", spied)
    load(ModelSource(device="cpu"))
    (thread,) = threads
    assert thread is not threading.current_thread() and not thread.is_alive()
