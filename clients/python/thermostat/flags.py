"""The flags of the command that say what to generate: the prompt, and every field of the request."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from google.protobuf.json_format import ParseDict, ParseError

from thermostat.client import Client, Generation
from thermostat.request import Prompt
from thermostat.v1.generation_pb2 import Constraint, Resume
from thermostat.words import parse_policy

_Command = TypeVar("_Command", bound=Callable[..., Any])


class PolicyWords(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A policy as `parse_policy` reads it; the words are kept, they label the run."""

    name = "NAME[:PARAMETER=VALUE,...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            parse_policy(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return value


class Assignments(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """NAME=NUMBER,... as a dictionary; whole numbers stay whole."""

    name = "NAME=NUMBER,..."

    def __init__(self, key: Callable[[str], Any] = str) -> None:
        self._key = key

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        given = {}
        for assignment in value.split(","):
            name, _, number = (part.strip() for part in assignment.partition("="))
            try:
                given[self._key(name)] = int(number) if number.lstrip("-").isdecimal() else float(number)
            except ValueError:
                self.fail(f"expected {self.name}, not {assignment.strip()!r}", param, ctx)
        return given


class FormWords(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """KIND=TEXT, or KIND=@FILE, as a constraint."""

    name = "KIND=TEXT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        kind, equals, text = value.partition("=")
        if not equals or kind not in Constraint.DESCRIPTOR.fields_by_name:
            allowed = ", ".join(Constraint.DESCRIPTOR.fields_by_name)
            self.fail(f"expected KIND=TEXT or KIND=@FILE with KIND one of {allowed}, not {value!r}", param, ctx)
        if text.startswith("@"):
            with click.open_file(text[1:], encoding="utf-8") as file:
                text = file.read()
        return {kind: text}


class ResumeFile(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A file with the JSON of a Finished, as --json prints it, or of its resume."""

    name = "FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        with click.open_file(value, encoding="utf-8") as file:
            last = file.read().strip().splitlines()[-1:]
        try:
            found = json.loads(last[0] if last else "")
            return ParseDict(found.get("finished", found).get("resume", found), Resume())
        except (ValueError, AttributeError, ParseError) as error:
            self.fail(f"{value} holds no resume: {error}", param, ctx)


_PROMPT = [
    click.argument("prompt", required=False),
    click.option("--file", type=click.File("r", encoding="utf-8"), help="Read the prompt from this file."),
    click.option("--token-ids", is_flag=True, help="The prompt is token ids, such as '12,7,99'."),
    click.option("--chat", is_flag=True, help="The prompt is the user's turn of a conversation."),
    click.option("--system", metavar="TEXT", help="A system turn before it; implies --chat."),
    click.option(
        "--generation-prompt/--no-generation-prompt", "add_generation_prompt", default=None,
        help="With --chat: whether the template opens the assistant's turn.  [default: yes]",
    ),
    click.option("--model", metavar="NAME", help="Name of the model.  [default: the one that is served]"),
]  # fmt: skip

_SHARED = [
    click.option("--top-k", type=int, help="Keep the K most likely tokens."),
    click.option("--top-p", type=float, help="Keep the fewest tokens with this share of the probability."),
    click.option("--min-p", type=float, help="Keep tokens at least this many times as likely as the likeliest."),
    click.option("--typical-p", type=float, help="Keep tokens whose surprisal is nearest the entropy."),
    click.option("--epsilon-cutoff", type=float, help="Keep tokens of at least this probability."),
    click.option("--eta-cutoff", type=float, help="The same, less strict where entropy is high."),
    click.option("--top-n-sigma", type=float, help="Keep logits within this many deviations of the largest."),
    click.option("--top-h", type=float, help="Keep tokens up to this share of the entropy."),
    click.option("--top-h-variant", type=click.Choice(["paper", "hugging_face"]), help="How top-h measures entropy."),
    click.option("--p-less/--no-p-less", default=None, help="Keep tokens at least as likely as the sum of squares."),
    click.option("--xtc-threshold", type=float, help="Probability from which xtc drops all but one.  [default: 0.1]"),
    click.option("--xtc-probability", type=float, help="The chance that xtc acts at a step.  [default: 0]"),
    click.option("--penalties", type=Assignments(), help="Such as repetition=1.1,frequency=0.2,dry_multiplier=0.8."),
    click.option("--logit-bias", type=Assignments(int), help="Added to logits by token id, such as 12=-5,99=2."),
    click.option("--signals", metavar="PRESET", help="Watch the stream: default or strict."),
    click.option("--sampling-info/--no-sampling-info", default=None, help="Whether tokens say how they were drawn."),
    click.option("--candidates", type=int, metavar="N", help="Report the N most likely tokens of each step (--json)."),
    click.option("--max-tokens-per-message", type=int, metavar="N", help="Tokens gathered in a message.  [default: 1]"),
    click.option("--timeout", type=float, metavar="SECONDS", help="Deadline of the call; past it is an error."),
    click.option("--show-steps", is_flag=True, help="A table of the steps: entropy, temperature, rank of each token."),
    click.option("--json", "as_json", is_flag=True, help="One line of JSON per event on stdout, and nothing else."),
]

_OWN = [
    click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="Seed of the draws.  [default: picked and told]"),
    click.option("-n", "--max-output-tokens", type=int, help="Most tokens to draw.  [default: 256]"),
    click.option("--min-output-tokens", type=int, help="No end before this many tokens.  [default: 0]"),
    click.option("--constraint", type=FormWords(), help="Form of the output: json_schema=, regex= or grammar=."),
    click.option("--resume", type=ResumeFile(), help="Go on from the last line of an earlier --json run."),
    click.option("--stop-sequence", "stop_sequences", multiple=True, metavar="TEXT", help="End before it. Repeatable."),
    click.option("--stop-token-id", "stop_token_ids", multiple=True, type=int, help="End at this token. Repeatable."),
    click.option("--ignore-eos/--no-ignore-eos", default=None, help="Go on after the end-of-text token."),
    click.option("--time-limit", type=float, metavar="SECONDS", help="End well after this time."),
]


def prompt_flags(command: _Command) -> _Command:
    """PROMPT and what it is."""
    return _with(command, _PROMPT)


def request_flags(command: _Command) -> _Command:
    """Every other field of the request, and how to show the answer."""
    return _with(command, [*_OWN, *_SHARED])


def score_flags(command: _Command) -> _Command:
    """The fields that scoring has too."""
    return _with(command, _SHARED)


def _with(command: _Command, flags: Sequence[Callable[[Any], Any]]) -> _Command:
    for flag in reversed(flags):
        command = flag(command)
    return command


def read_prompt(prompt: str | None, file: Any, token_ids: bool, chat: bool, system: str | None) -> Prompt:
    """The prompt that the flags describe."""
    if (prompt is None) == (file is None):
        raise click.UsageError("give either a PROMPT (- reads it from standard input) or --file")
    if token_ids and (chat or system is not None):
        raise click.UsageError("--token-ids and --chat exclude each other")
    text = str(file.read() if file is not None else sys.stdin.read() if prompt == "-" else prompt)
    if token_ids:
        try:
            return [int(word) for word in text.replace(",", " ").split()]
        except ValueError as error:
            raise click.UsageError(f"--token-ids: {error}") from None
    if not chat and system is None:
        return text
    turns = [] if system is None else [{"role": "system", "content": system}]
    return [*turns, {"role": "user", "content": text}]


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None and value != ()}


def begin(client: Client, prompt: Prompt, options: dict[str, Any]) -> Generation:
    """A generation as the flags have it. UsageError for a number that its field cannot hold."""
    try:
        return client.generate(prompt, **given(options))
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None
