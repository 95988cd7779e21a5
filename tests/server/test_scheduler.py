"""Admission, chunks and order."""

from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.generation import Generation, Stage
from server.engine.request import GenerationRequest, Stopping
from server.engine.scheduler import Limits, Scheduler


def generation(name="g", prompt=5, most=10, context=100):
    request = GenerationRequest(name, tuple(range(1, prompt + 1)), stopping=Stopping(max_output_tokens=most))
    return Generation(request, context, frozenset(), lambda token: b"")


def test_first_come_first_served_and_no_one_overtakes_a_large_one():
    scheduler = Scheduler(Limits(rows=4, kv_tokens=40, chunk=8))
    small, large, late = generation("small"), generation("large", 20, 15), generation("late")
    for g in (small, large, late):
        scheduler.add(g)
    assert scheduler.admit() == [small]  # 14 of 40 taken; the large one needs 34 and waits, and the late one behind it
    scheduler.retire(small)
    assert scheduler.admit() == [large]
    assert scheduler.kv_tokens == 34


def test_rows_are_bounded():
    scheduler = Scheduler(Limits(rows=2, kv_tokens=1000, chunk=8))
    for i in range(3):
        scheduler.add(generation(str(i)))
    assert len(scheduler.admit()) == 2
    assert scheduler.admit() == []


def test_a_long_prompt_comes_in_chunks_beside_those_that_decode():
    scheduler = Scheduler(Limits(rows=4, kv_tokens=1000, chunk=8))
    decoding, long = generation("decoding", 3), generation("long", 20)
    scheduler.add(decoding)
    scheduler.admit()
    scheduler.advance(scheduler.plan().chunks[0])
    scheduler.add(long)
    scheduler.admit()
    seen = []
    while long.stage is Stage.PREFILLING:
        plan = scheduler.plan()
        assert plan.decoding == [decoding]
        (chunk,) = plan.chunks
        seen.append((chunk.start, chunk.stop, chunk.completes))
        scheduler.advance(chunk)
    assert seen == [(0, 8, False), (8, 16, False), (16, 20, True)]


def test_short_prompts_share_a_step():
    scheduler = Scheduler(Limits(rows=4, kv_tokens=1000, chunk=8))
    for i, length in enumerate((3, 4, 5)):
        scheduler.add(generation(str(i), length))
    scheduler.admit()
    assert [chunk.generation.id for chunk in scheduler.plan().chunks] == ["0", "1"]


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(0, 4)), min_size=1, max_size=12))
def test_everything_is_freed_whatever_leaves_when(work):
    scheduler = Scheduler(Limits(rows=3, kv_tokens=90, chunk=16))
    pending = [(generation(str(i), prompt, most), steps) for i, (prompt, most, steps) in enumerate(work)]
    for g, _ in pending:
        scheduler.add(g)
    for g, steps in pending:
        for _ in range(steps):
            scheduler.admit()
            plan = scheduler.plan()
            assert scheduler.running <= 3
            assert scheduler.kv_tokens <= 90
            for chunk in plan.chunks:
                scheduler.advance(chunk)
        scheduler.retire(g)
        scheduler.retire(g)  # a second time changes nothing
    assert (scheduler.running, scheduler.kv_tokens, len(scheduler.waiting)) == (0, 0, 0)


def ask(client, name="", prompt=4, most=4):
    request = GenerationRequest(name, (1,) * prompt, stopping=Stopping(max_output_tokens=most), client=client)
    return Generation(request, 100, frozenset(), lambda token: b"")


def test_one_clients_thousand_do_not_starve_anothers_one():
    """Of those that wait, the client with the fewest running is next; each client's own come in their order."""
    scheduler = Scheduler(Limits(rows=2, kv_tokens=10_000, chunk=8))
    for i in range(1000):
        scheduler.add(ask("many", f"many {i}"))
    assert [g.id for g in scheduler.admit()] == ["many 0", "many 1"]
    scheduler.add(ask("one", "one 0"))
    scheduler.add(ask("two", "two 0"))
    scheduler.retire(scheduler.prefilling[0])
    assert [g.id for g in scheduler.admit()] == ["one 0"]
    scheduler.retire(scheduler.prefilling[1])
    assert [g.id for g in scheduler.admit()] == ["two 0"]
    scheduler.retire(scheduler.prefilling[1])
    assert [g.id for g in scheduler.admit()] == ["many 2"]


def test_a_held_generation_keeps_its_memory_and_gives_up_its_row():
    scheduler = Scheduler(Limits(rows=1, kv_tokens=100, chunk=8))
    slow, next_one = ask("a", "slow"), ask("b", "next")
    scheduler.add(slow)
    scheduler.admit()
    scheduler.advance(scheduler.plan().chunks[0])
    slow.tokens.append(5)
    slow.held = True
    scheduler.add(next_one)
    assert scheduler.admit() == [next_one]
    assert slow.stage is Stage.PAUSED
    assert scheduler.kv_tokens == slow.kv_tokens + next_one.kv_tokens
    slow.held = False
    assert scheduler.admit() == []
    assert slow.stage is Stage.PAUSED, "the row is not free yet"
    scheduler.retire(next_one)
    scheduler.admit()
    (chunk,) = scheduler.plan().chunks
    assert (chunk.tokens, chunk.replays, chunk.completes) == ((5,), True, True)
