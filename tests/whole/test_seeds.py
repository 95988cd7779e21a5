"""Same seed, same tokens: 200 requests of mixed policies, alone, among fifteen others, and after being queued."""

import random

import pytest
import torch

from adaptive import Edt, EntropyBand, Filters, Fixed, Greedy, TargetEntropy, accelerator
from server.engine.events import Drawn, Failed, Finished
from server.engine.loading import ModelSource, load
from server.engine.local import LocalEngine
from server.engine.request import GenerationRequest, Stopping
from server.engine.scheduler import Limits
from tests.compiler import needs_compiler

POLICIES = [Fixed(), Fixed(0.7), Greedy(), EntropyBand(), Edt(), TargetEntropy(1.0), TargetEntropy(2.5)]
FILTERS = [Filters(), Filters(top_p=0.9), Filters(top_k=30, min_p=0.02), Filters(top_k=5, top_p=0.95)]
LONGEST_PROMPT = 300


def requests(count):
    """Prompts of 1 to 300 tokens, 4 to 24 tokens wanted."""
    chance = random.Random(200)
    return [
        GenerationRequest(
            str(number),
            tuple(chance.randrange(1, 4096) for _ in range(chance.choice([1, 3, 17, 60, 129, LONGEST_PROMPT]))),
            chance.choice(POLICIES),
            chance.choice(FILTERS),
            Stopping(max_output_tokens=chance.randrange(4, 25), ignore_eos=True),
            seed=chance.getrandbits(64),
        )
        for number in range(count)
    ]


def run(model, token_bytes, wanted, rows, at_once):
    """Tokens and all figures of every request, on an engine of `rows` rows, `at_once` requests at a time."""
    import queue

    arrived = queue.SimpleQueue()
    engine = LocalEngine(model, token_bytes, Limits(rows, 10**6, 64), len(wanted), arrived.put)
    engine.start()
    drawn = {request.id: [] for request in wanted}
    try:
        waiting = list(wanted)
        running = 0
        while waiting or running:
            while waiting and running < at_once:
                engine.submit(waiting.pop(0))
                running += 1
            for request_id, event in arrived.get(timeout=60):
                assert not isinstance(event, Failed)
                running -= isinstance(event, Finished)
                if isinstance(event, Drawn):
                    drawn[request_id].append(repr(event.info))
    finally:
        engine.stop()
    return drawn


@pytest.mark.parametrize(
    ("dtype", "count", "compiled"),
    [("float32", 200, False), ("bfloat16", 60, False), pytest.param("float32", 200, True, marks=needs_compiler)],
)
def test_tokens_and_figures_are_bit_identical_alone_in_company_and_queued(dtype, count, compiled, monkeypatch):
    """Not only the tokens: every figure of every token has the same bits, so the logits had them too."""
    monkeypatch.setattr(accelerator, "_compiled", [])  # as it was, when this ends
    model, tokenizer = load(ModelSource(dtype=dtype, compile=compiled))
    wanted = requests(count)
    alone = run(model, tokenizer.token_bytes, wanted, rows=1, at_once=1)
    company = run(model, tokenizer.token_bytes, wanted, rows=16, at_once=16)
    queued = run(model, tokenizer.token_bytes, wanted[::-1], rows=5, at_once=count)
    assert alone == company
    assert alone == queued
    assert sum(map(len, alone.values())) > 10 * count


def test_no_global_generator_is_touched():
    model, tokenizer = load(ModelSource())
    state = torch.get_rng_state()
    run(model, tokenizer.token_bytes, requests(3), rows=4, at_once=3)
    assert torch.equal(torch.get_rng_state(), state)
