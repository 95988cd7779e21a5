"""Prompts that begin alike: computed once, with the same bits, inside the KV budget."""

import pytest
import torch

from adaptive import Fixed
from server.engine.events import Drawn, Finished
from server.engine.kv_cache import RowCache
from server.engine.loading import ModelSource, load
from server.engine.prefix import PrefixCache, block_names
from server.engine.request import GenerationRequest, Stopping
from server.engine.scheduler import Limits
from tests.fakes import FakeModel, Harness

BLOCK = 4
LONG = tuple(range(1, 30))


def filled(tokens):
    cache = RowCache(64)
    column = torch.tensor(tokens).view(1, 1, -1, 1)
    cache.write(0, 0, column, column)
    return cache


def stored(cache, length):
    return cache.get(0, length)[0][0].flatten().tolist()


def test_names_tell_all_tokens_up_to_the_end_of_a_block_and_leave_the_last_token_out():
    assert block_names(LONG[:4], BLOCK) == []
    first, second = block_names(LONG[:9], BLOCK)
    assert block_names((*LONG[:4], 9, 9, 9, 9, 1), BLOCK)[0] == first
    assert block_names((9, *LONG[1:9]), BLOCK)[1] != second
    assert block_names(LONG[:10], BLOCK) == [first, second]


def test_what_was_kept_comes_back_as_far_as_it_is_there():
    prefixes, names = PrefixCache(BLOCK), block_names(LONG, BLOCK)
    prefixes.keep(names[:3], 0, filled(LONG), room=100)
    assert prefixes.tokens == 12
    cache = RowCache(64)
    assert prefixes.restore(names, 0, cache) == 3
    assert stored(cache, 12) == list(LONG[:12])
    assert prefixes.restore(block_names((9, *LONG[1:]), BLOCK), 0, RowCache(64)) == 0


def test_the_least_recently_used_go_first_and_ends_before_beginnings():
    prefixes = PrefixCache(BLOCK)
    old, new = block_names(LONG, BLOCK)[:3], block_names(LONG[::-1], BLOCK)[:3]
    prefixes.keep(old, 0, filled(LONG), room=24)
    prefixes.keep(new, 0, filled(LONG[::-1]), room=24)
    assert prefixes.restore(old, 0, RowCache(64)) == 3  # now `new` is the one not used for longest
    prefixes.shrink(16)
    assert prefixes.restore(old, 0, RowCache(64)) == 3
    assert prefixes.restore(new, 0, RowCache(64)) == 1
    prefixes.shrink(0)
    assert prefixes.tokens == 0


def test_no_more_is_kept_than_there_is_room_for():
    prefixes = PrefixCache(BLOCK)
    prefixes.keep(block_names(LONG, BLOCK), 0, filled(LONG), room=10)
    assert prefixes.tokens == 8


def asked(number, prompt, tokens=4):
    stopping = Stopping(max_output_tokens=tokens, ignore_eos=True)
    return GenerationRequest(f"r{number}", prompt, Fixed(), seed=number, stopping=stopping)


def computed(model):
    return sum(prompt for _, prompt in model.batches)


def test_ten_prompts_that_begin_alike_compute_their_beginning_once():
    """All at once, so that nine of them wait for what the first computes."""
    model = FakeModel(context_length=200)
    wanted = [asked(i, (*LONG * 4, i)) for i in range(10)]
    with Harness(model, rows=10, kv=4000) as harness:
        assert all(isinstance(end, Finished) for end in harness.run(*wanted))
    whole = 116 // 8 * 8
    assert computed(model) == whole + 10 * (117 - whole)
    cached = [events[0].cached_tokens for events in harness.events.values()]
    assert sorted(cached) == [0] + [whole] * 9
    assert [harness.tokens("r3")[0], harness.tokens("r4")[0]] == [4, 5]


def test_a_full_budget_leaves_nothing_for_prefixes_and_everyone_ends_well():
    model = FakeModel(context_length=200)
    wanted = [asked(i, (*LONG * 4, i)) for i in range(6)]
    with Harness(model, rows=10, kv=120) as harness:  # each needs all of it
        assert all(isinstance(end, Finished) for end in harness.run(*wanted))
    assert computed(model) == 6 * 117
    assert all(events[0].cached_tokens == 0 for events in harness.events.values())


def test_the_beginning_of_another_prompt_is_not_taken_for_ones_own():
    with Harness(FakeModel(context_length=200), kv=4000) as harness:
        harness.run(asked(1, LONG))
        harness.run(asked(2, (*LONG[:8], *LONG[:20])))
    assert harness.events["r2"][0].cached_tokens == 8
    assert harness.tokens("r2") == [21, 22, 23, 24]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_generation_has_the_same_bits_with_and_without_the_prefix_cache(dtype):
    model, tokenizer = load(ModelSource(dtype=dtype))
    shared = torch.randint(1, 4096, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    wanted = [asked(i, (*shared[: 150 + 30 * i], i + 1), 8) for i in range(6)]
    seen = []
    for prefix_cache in (True, False):
        limits = Limits(4, 10_000, 128, prefix_cache)
        with Harness(model, limits=limits, token_bytes=tokenizer.token_bytes) as harness:
            assert all(isinstance(end, Finished) for end in harness.run(*wanted))
        cached = sum(events[0].cached_tokens for events in harness.events.values())
        assert cached == (prefix_cache and (2 + 2 + 3 + 3 + 4) * 64)
        drawn = ((name, event) for name, events in harness.events.items() for event in events)
        seen.append(sorted((name, event.index, repr(event.info)) for name, event in drawn if isinstance(event, Drawn)))
    assert seen[0] == seen[1]
