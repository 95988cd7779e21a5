"""The engine on a fake model: order of events, ends, isolation, cancellation."""

import threading
import time
from dataclasses import replace

import pytest
import torch

import adaptive
from adaptive import EntropyFeedback, Filters, Fixed, Greedy, Mirostat
from server.engine.engine import TooLarge
from server.engine.events import Cause, Drawn, Failed, Finished, FinishReason, Started
from server.engine.inbox import EngineDown, QueueFull
from server.engine.request import GenerationRequest, Resume, Stopping
from server.engine.scheduler import Scheduler
from tests.fakes import EOS, VOCAB, FakeModel, Harness, counting


def request(name="r", prompt=(1,), policy=Greedy(), **stopping):  # noqa: B008
    stopping.setdefault("max_output_tokens", 5)
    return GenerationRequest(name, prompt, policy, stopping=Stopping(**stopping))


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.002)


def then_end(after):
    """Logits that count up to a token and then end."""

    def logits(tokens):
        out = counting(tokens)
        if tokens[-1] == after:
            out[EOS] = 99.0
        return out

    return logits


def test_one_started_then_tokens_then_one_finished():
    with Harness() as harness:
        (finished,) = harness.run(request())
    kinds = [type(event) for event in harness.events["r"]]
    assert kinds == [Started, *[Drawn] * 5, Finished]
    assert harness.tokens("r") == [2, 3, 4, 5, 6]
    assert harness.text("r") == "bcdef"
    assert finished.reason is FinishReason.MAX_OUTPUT_TOKENS
    assert (finished.prompt_tokens, finished.output_tokens) == (1, 5)
    assert len(finished.record.original_entropy) == 5


def test_ends():
    with Harness(FakeModel(then_end(after=4), context_length=10)) as harness:
        ends = harness.run(
            request("eos", max_output_tokens=9),
            request("ignored", ignore_eos=True, max_output_tokens=6),
            request("token", stop_token_ids=(3,)),
            request("text", stop_sequences=("bc",)),
            request("context", prompt=(5,) * 7, max_output_tokens=50),
            request("late", prompt=(9,), time_limit=1e-9),
        )
    expected = [
        (FinishReason.EOS, EOS, "bcd"),
        (FinishReason.MAX_OUTPUT_TOKENS, None, "bcdab"),  # the ignored end has no text
        (FinishReason.STOP_TOKEN, 3, "b"),
        (FinishReason.STOP_SEQUENCE, "bc", ""),
        (FinishReason.CONTEXT_LENGTH, None, "fgh"),
        (FinishReason.TIME_LIMIT, None, "j"),
    ]
    names = ("eos", "ignored", "token", "text", "context", "late")
    assert [(end.reason, end.matched, harness.text(name)) for end, name in zip(ends, names, strict=True)] == expected
    assert harness.tokens("eos") == [2, 3, 4, EOS]  # the end is a token with its own record


def test_no_end_before_min_output_tokens():
    with Harness(FakeModel(then_end(after=2))) as harness:
        (finished,) = harness.run(request(min_output_tokens=3, stop_sequences=("b",), max_output_tokens=6))
    tokens = harness.tokens("r")
    assert EOS not in tokens[:3]
    assert finished.output_tokens >= 3


def test_text_held_for_a_stop_string_comes_at_the_end():
    with Harness() as harness:
        harness.run(request(stop_sequences=("fx",)))
    assert harness.text("r") == "bcdef"


def test_a_row_that_fails_ends_its_own_request_only():
    def logits(tokens):
        return torch.full((VOCAB,), torch.nan) if 20 in tokens else counting(tokens)

    with Harness(FakeModel(logits)) as harness:
        bad, *good = harness.run(request("bad", (17,)), *(request(str(i), (i + 1,)) for i in range(3)))
    assert isinstance(bad, Failed)
    assert "NaN" in bad.message
    assert harness.tokens("bad") == [18, 19, 20]
    assert all(isinstance(end, Finished) for end in good)
    assert [harness.tokens(str(i)) for i in range(3)] == [list(range(i + 2, i + 7)) for i in range(3)]


def test_a_model_that_raises_for_one_row_fails_that_row_only():
    """As a lack of memory would: the step is computed again row by row."""

    class Raising(FakeModel):
        def forward(self, pieces, last_tokens):
            seen = last_tokens.tolist() + [t for p in pieces for t in p.tokens or ()]
            if 20 in seen:
                raise MemoryError("no room")
            return super().forward(pieces, last_tokens)

    with Harness(Raising()) as harness:
        bad, prompt, *good = harness.run(
            request("bad", (17,)), request("prompt", (20,) * 20), *(request(str(i), (i + 1,)) for i in range(2))
        )
    assert isinstance(bad, Failed)
    assert isinstance(prompt, Failed)
    assert all(isinstance(end, Finished) for end in good)
    assert [harness.tokens(str(i)) for i in range(2)] == [list(range(i + 2, i + 7)) for i in range(2)]
    assert harness.engine.state().running == 0


def test_a_fault_on_the_host_in_one_row_fails_that_row_only(monkeypatch):
    from server.engine import generation

    take = generation.Generation.take

    def broken(self, info, choices):
        if self.id == "bad" and self.output_tokens == 2:
            raise RuntimeError("secret detail")
        return take(self, info, choices)

    monkeypatch.setattr(generation.Generation, "take", broken)
    with Harness() as harness:
        bad, good = harness.run(request("bad"), request("good", (7,)))
    assert isinstance(bad, Failed)
    assert "secret" not in bad.message
    assert isinstance(good, Finished)


def test_more_requests_than_rows_wait_in_order():
    with Harness(rows=2) as harness:
        ends = harness.run(*(request(str(i), (i + 1,)) for i in range(9)))
    assert all(isinstance(end, Finished) for end in ends)
    assert [harness.tokens(str(i)) for i in range(9)] == [list(range(i + 2, i + 7)) for i in range(9)]
    firsts = [request_id for step in harness.steps for request_id, event in step if isinstance(event, Started)]
    assert firsts == sorted(firsts)


def test_a_full_queue_refuses_at_once():
    gate = threading.Event()

    def slow(tokens):
        gate.wait(10)
        return counting(tokens)

    with Harness(FakeModel(slow), rows=1, most=2) as harness:
        for i in range(3):
            harness.engine.submit(request(str(i)))
        with pytest.raises(QueueFull):
            harness.engine.submit(request("one too many"))
        gate.set()
        until(lambda: harness.engine.state().running + harness.engine.state().waiting == 0)
        harness.run(request("again"))


def test_a_request_that_could_never_fit_is_refused():
    with Harness(kv=20) as harness, pytest.raises(TooLarge):
        harness.engine.submit(request(prompt=(1,) * 10, max_output_tokens=40))


def test_a_cancelled_request_frees_its_row_within_a_step_and_says_nothing_more():
    with Harness(FakeModel(context_length=10**6), rows=1, kv=10**6) as harness:
        harness.engine.submit(request("endless", max_output_tokens=10**5))
        harness.engine.submit(request("waiting"))
        until(lambda: "endless" in harness.events)
        before = harness.engine.state().steps
        harness.engine.cancel("endless")
        until(lambda: any(isinstance(event, Finished) for event in harness.events.get("waiting", ())))
        drawn = len(harness.tokens("endless"))
        assert drawn >= before - 1
        until(lambda: harness.engine.state().running == 0)
        state = harness.engine.state()
        assert (state.running, state.waiting, state.kv_tokens) == (0, 0, 0)
        harness.engine.cancel("endless")
        harness.engine.cancel("never heard of")
        harness.run(request("after"))
        assert len(harness.tokens("endless")) == drawn


def test_a_long_prompt_does_not_stop_the_others():
    with Harness(FakeModel(context_length=500), chunk=8) as harness:
        harness.engine.submit(request("talking", max_output_tokens=400))
        until(lambda: "talking" in harness.events)
        harness.run(request("long", prompt=(3,) * 200, max_output_tokens=1))
        assert all(prompt <= 8 for _, prompt in harness.model.batches)
        beside = [rows for rows, prompt in harness.model.batches if prompt == 8]
        assert len(beside) >= 25
        assert all(beside)
        harness.engine.cancel("talking")


def test_one_delivery_a_step():
    with Harness() as harness:
        harness.run(*(request(str(i)) for i in range(4)))
        assert len(harness.steps) <= harness.engine.state().steps


def test_an_engine_that_dies_fails_every_stream_and_takes_nothing_more(monkeypatch):
    with Harness(FakeModel(context_length=10**6), kv=10**6) as harness:
        harness.engine.submit(request("endless", max_output_tokens=10**5))
        until(lambda: "endless" in harness.events)

        def die(*_):
            raise SystemError("gone")

        monkeypatch.setattr(Scheduler, "plan", die)
        until(lambda: isinstance(harness.events["endless"][-1], Failed))
        assert harness.events["endless"][-1].cause is Cause.UNAVAILABLE
        with pytest.raises(EngineDown):
            harness.engine.submit(request("late"))
        assert not harness.engine.state().alive


def test_the_same_seed_gives_the_same_tokens_alone_and_in_company():
    def spread(tokens):
        return torch.randn(VOCAB, generator=torch.Generator().manual_seed(hash(tuple(tokens)) % 2**31))

    def ask(name):
        return GenerationRequest(
            name, (3, 1), Fixed(1.3), Filters(top_p=0.9), Stopping(max_output_tokens=20, ignore_eos=True), seed=11
        )

    with Harness(FakeModel(spread)) as harness:
        harness.run(ask("alone"))
        harness.run(*(request(str(i), (i + 1,), Fixed(2.0)) for i in range(3)), ask("crowd"), ask("queued"))
    assert harness.tokens("alone") == harness.tokens("crowd") == harness.tokens("queued")
    assert len(set(harness.tokens("alone"))) > 3


def test_a_held_generation_stands_still_and_then_goes_on_with_the_same_tokens():
    def spread(tokens):
        return torch.randn(VOCAB, generator=torch.Generator().manual_seed(hash(tuple(tokens)) % 2**31))

    def ask(name):
        stopping = Stopping(max_output_tokens=40, ignore_eos=True)
        return GenerationRequest(name, (3, 1), Fixed(1.3), stopping=stopping, seed=11)

    with Harness(FakeModel(spread), rows=1) as harness:
        harness.run(ask("uncut"))
        deliver, waiting = harness.engine._deliver, threading.Event()

        def hold_at_seven(events):
            deliver(events)
            if len(harness.tokens("held")) == 7:
                harness.engine.hold("held")
                waiting.set()

        harness.engine._deliver = hold_at_seven
        harness.engine.submit(ask("held"))
        assert waiting.wait(10)
        harness.run(request("other"))
        assert len(harness.tokens("held")) == 7, "its row was free for another meanwhile"
        harness.engine.release("held")
        until(lambda: isinstance(harness.events["held"][-1], Finished))
    assert harness.tokens("held") == harness.tokens("uncut")


def test_a_draw_that_fails_is_done_again_row_by_row_and_only_its_own_row_fails(monkeypatch):
    """Policies with state among them, which goes on as if nothing had been."""
    wanted = [
        request(f"r{i}", policy=policy) for i, policy in enumerate([Fixed(), Mirostat(1.0), EntropyFeedback(1.0)])
    ]
    wanted = [replace(each, seed=i) for i, each in enumerate(wanted)]
    model = FakeModel(lambda tokens: torch.linspace(0, 3, VOCAB).roll(tokens[-1]))
    with Harness(model) as harness:
        harness.run(*wanted)
        expected = {each.id: list(map(repr, harness.events[each.id])) for each in wanted}
    step = adaptive.step

    def failing(logits, rows, *more, **named):
        if any(settings.seed == 666 and settings.position == 2 for settings in rows.settings):
            raise RuntimeError("a fault of the sampler")
        return step(logits, rows, *more, **named)

    monkeypatch.setattr(adaptive, "step", failing)
    with Harness(model) as harness:
        *ends, failed = harness.run(*wanted, replace(request("bad"), seed=666, resume=Resume((1, 2))))
        after = harness.run(request("after"))
    assert isinstance(failed, Failed)
    assert "at output token 2" in failed.message
    assert all(isinstance(end, Finished) for end in [*ends, *after])
    for name, events in expected.items():
        told = list(map(repr, harness.events[name]))
        assert told[1:-1] == events[1:-1]
