"""What a terminal shows: colours by entropy, columns or stacks by width, and nothing that could command it."""

import io

import pytest
from rich.console import Console

from tests.clients.fake_server import events
from thermostat import render
from thermostat.events import unwrap
from thermostat.run import Run
from thermostat.v1 import generation_pb2 as pb


def made(label: str = "fixed", count: int = 14) -> Run:
    run = Run(label)
    for response in events(pb.GenerateRequest(stopping=pb.Stopping(max_output_tokens=count))):
        if (event := unwrap(response)) is not None:
            run.take(event)
    return run


def shown(renderable: object, width: int, colours: bool = False) -> str:
    system = "truecolor" if colours else None
    out = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=system, _environ={})
    out.print(renderable)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def output(text: str, *tokens: tuple[bytes, float]) -> pb.Output:
    made = [pb.Token(token_bytes=raw, sampling_info=pb.SamplingInfo(original_entropy=nats)) for raw, nats in tokens]
    return pb.Output(text_delta=text, tokens=made)


def test_a_character_has_the_entropy_of_the_token_it_began_in() -> None:
    run = Run("x")
    assert run.take(output("", (b"\xc3", 2.0))) == []
    pieces = run.take(output("äb", (b"\xa4b", 1.0)))
    assert [(piece.text, piece.entropy) for piece in pieces] == [("ä", 2.0), ("b", 1.0)]


def test_several_tokens_in_a_message_keep_their_own_entropies() -> None:
    pieces = Run("x").take(output("abc", (b"a", 0.0), (b"bc", 3.0)))
    assert [(piece.text, piece.entropy) for piece in pieces] == [("a", 0.0), ("bc", 3.0)]


def test_text_that_is_not_the_bytes_of_its_tokens_is_still_shown() -> None:
    run = Run("x")
    assert "".join(piece.text for piece in run.take(output("�?", (b"\xff", 1.0)))) == "�?"
    assert [(piece.text, piece.entropy) for piece in run.take(output("ok", (b"ok", 2.0)))] == [("ok", 2.0)]


def test_sure_is_blue_and_unsure_is_red() -> None:
    assert render.colour(0.0) == render.SCALE[0][1] and render.colour(9.0) == render.SCALE[-1][1]
    assert render.colour(float("inf")) == render.SCALE[-1][1] and render.colour(None) == "default"
    assert "38;2;255;80;80m" in shown(render.coloured(made()), 80, colours=True)


def test_a_model_cannot_command_the_terminal() -> None:
    run = Run("x")
    run.take(output("\x1b[2J\x07a\tb\n", (b"\x1b[2J\x07a\tb\n", 0.0)))
    assert "\x1b" not in shown(render.coloured(run, "\x1b]0;title"), 80)
    assert render.visible("a\tb\nc\x9b\r") == "a\tb\nc�␍"


@pytest.mark.parametrize(("width", "panels_in_a_line"), [(150, 3), (80, 1)])
def test_runs_stand_side_by_side_where_the_width_allows(width: int, panels_in_a_line: int) -> None:
    out = Console(width=width, force_terminal=True, _environ={})
    text = shown(render.beside([made("a"), made("b"), made("c")], "def ", out), width)
    assert max(line.count("╭") for line in text.splitlines()) == panels_in_a_line
    assert text.count("14 tokens") == 3 and "█" in text


def test_while_it_runs_only_the_last_lines_that_fit_are_drawn() -> None:
    out = Console(width=150, force_terminal=True, _environ={})
    assert len(shown(render.beside([made(count=300)], "", out, most_lines=5), 150).splitlines()) <= 10


@pytest.mark.parametrize("width", [80, 150])
def test_tables_fit_and_lose_no_figure(width: int) -> None:
    runs = [made("fixed"), made("entropy_band"), made("target_entropy")]
    text = shown(render.comparison(runs, width), width) + shown(render.steps(runs[0], width), width)
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    for words in ("target_entropy", "1.00–1.00", "2.72", "-0.62", "max_output_tokens", "b'\\xa4'", "130"):
        assert words in text


def test_figures_of_an_interrupted_run_come_from_its_tokens() -> None:
    run = made()
    run.finished = None
    assert run.reason == "interrupted" and run.perplexity == pytest.approx(2.718, abs=1e-3)
    assert run.figures("original_entropy") == (sum(run.values("original_entropy")) / 14, 0.0, 5.5)
    assert "interrupted after 14 tokens" in render.summary(run)


def test_a_run_without_anything_still_sums_up() -> None:
    run = Run("empty")
    assert "interrupted after 0 tokens" in render.summary(run)
    assert "–" in shown(render.comparison([run], 150), 150)
