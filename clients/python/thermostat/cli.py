"""The `thermostat` command."""

from __future__ import annotations

import sys
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from thermostat import errors, render
from thermostat.channel import tls
from thermostat.client import Client
from thermostat.compare import compare
from thermostat.exits import INTERRUPTED, exit_code, tell
from thermostat.flags import PolicyWords, begin, given, prompt_flags, read_prompt, request_flags, score_flags
from thermostat.lines import event_line, message_line
from thermostat.operate import health, top
from thermostat.run import Run
from thermostat.v1.model_pb2 import ListPoliciesResponse

_EPILOG = """\b
Examples:
  thermostat generate "def " --policy target_entropy:target_entropy=1.5
  thermostat compare "def " --policy fixed --policy entropy_band --show-steps
  thermostat policies

\b
Exit status: 0 ok, 2 wrong usage or an invalid request, 3 server unavailable
or overloaded, 4 deadline exceeded, 5 a fault of the server, 1 anything else,
130 interrupted."""


_FILE = click.Path(exists=True, dir_okay=False)


class _Commands(click.Group):
    """Turns failures into one clear line and a status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except errors.ThermostatError as error:
            tell(error)
            ctx.exit(exit_code(error))
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


@click.group(cls=_Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--server", envvar="THERMOSTAT_SERVER", default="localhost:50051", show_default=True, show_envvar=True,
    metavar="HOST:PORT", help="The server to talk to; unix:PATH for a Unix socket.",
)  # fmt: skip
@click.option("--tls", "secure", is_flag=True, help="Talk TLS; each of the next three implies it.")
@click.option("--tls-ca", type=_FILE, help="Authorities of the server's certificate, PEM.  [default: the public ones]")
@click.option("--tls-cert", type=_FILE, help="This client's certificate chain, PEM.")
@click.option("--tls-key", type=_FILE, help="Its key, PEM.")
@click.option(
    "--token", envvar="THERMOSTAT_TOKEN", show_envvar=True, help="Bearer token; others see flags, not variables."
)
@click.version_option(package_name="thermostat-client", prog_name="thermostat")
@click.pass_context
def main(
    context: click.Context, server: str, secure: bool, tls_ca: str | None, tls_cert: str | None, tls_key: str | None,
    token: str | None,
) -> None:  # fmt: skip
    """Generate text with a temperature that follows the model's uncertainty.

    Entropy is how unsure the model is of the next token, in nats: 0 is certain, ln(n) is torn between n tokens.
    A policy sets the temperature of each step from it; `thermostat policies` lists them.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a model writes what a terminal's encoding may lack
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key belong together")
    credentials = tls(tls_ca, tls_cert, tls_key) if secure or tls_ca or tls_cert else None
    context.obj = context.with_resource(Client(server, credentials=credentials, token=token))


@main.command(short_help="Continue a prompt, coloured by entropy.")
@prompt_flags
@click.option("--policy", type=PolicyWords(), default="fixed", show_default=True, help="How to set the temperature.")
@request_flags
@click.pass_obj
def generate(
    client: Client, /, prompt: str | None, file: Any, token_ids: bool, chat: bool, system: str | None, policy: str,
    show_steps: bool, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Continue PROMPT (- reads it from standard input) and stream the text, coloured by entropy.

    Without a terminal the text alone goes to stdout, the summary to stderr.

    \b
    Examples:
      thermostat generate "def " --policy edt:theta=2 --top-p 0.95 --seed 7
      thermostat generate --chat "Who are you?" --show-steps
      thermostat generate - --json < prompt.txt
    """
    words = read_prompt(prompt, file, token_ids, chat, system)
    generation = begin(client, words, {**options, "policy": policy})
    run, out = Run(policy), render.console()
    status, failure = 0, None
    if out.is_terminal and not as_json and isinstance(words, str):
        out.out(render.visible(words), style="bold", end="", highlight=False)
    try:
        for event in generation:
            pieces = run.take(event)
            if as_json:
                click.echo(event_line(event))
            for piece in [] if as_json else pieces:
                if out.is_terminal:
                    out.out(render.visible(piece.text), style=render.colour(piece.entropy), end="", highlight=False)
                else:
                    click.echo(piece.text, nl=False)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except errors.ThermostatError as error:
        run.error = failure = error
    if not as_json:
        _sum_up(run, out, show_steps)
    if failure is not None:
        raise failure
    click.get_current_context().exit(status)


@main.command(short_help="Read a text and show what each token's entropy was.")
@prompt_flags
@click.option("--policy", type=PolicyWords(), default="fixed", show_default=True, help="What would have set it.")
@click.option("--prompt-tokens", type=int, metavar="N", help="Tokens at the beginning not to score.  [default: 1]")
@score_flags
@click.pass_obj
def score(
    client: Client, /, prompt: str | None, file: Any, token_ids: bool, chat: bool, system: str | None,
    show_steps: bool, as_json: bool, timeout: float | None, **options: Any,
) -> None:  # fmt: skip
    """Read PROMPT (- reads it from standard input) and tell the entropy of each token; nothing is drawn.

    \b
    Example:
      thermostat score --file server/app.py --policy target_entropy --show-steps
    """
    words = read_prompt(prompt, file, token_ids, chat, system)
    try:
        scoring = client.score(words, timeout=timeout, **given(options))
    except (TypeError, ValueError) as error:  # a number that its field cannot hold
        raise click.UsageError(str(error)) from None
    run, out = Run(options["policy"]), render.console()
    for event in scoring:
        if as_json:
            click.echo(event_line(event))
        for piece in [] if as_json else run.take(event):
            out.out(render.visible(piece.text), style=render.colour(piece.entropy), end="", highlight=False)
    if not as_json:
        _sum_up(run, out, show_steps)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One line of JSON.")
@click.pass_obj
def policies(client: Client, /, as_json: bool) -> None:
    """List the policies, with parameters, units, ranges and defaults, and the presets."""
    found, presets = client.policies(), client.presets()
    if as_json:
        click.echo(message_line(ListPoliciesResponse(policies=found, presets=presets)))
        return
    out = render.console()
    out.print(render.policies(found))
    out.print(render.presets(presets))
    out.print(Text("Use one as --policy NAME or --policy NAME:PARAMETER=VALUE,PARAMETER=VALUE", style="dim"))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One line of JSON.")
@click.pass_obj
def model(client: Client, /, as_json: bool) -> None:
    """Describe the served model and the server's limits."""
    found = client.model()
    click.echo(message_line(found)) if as_json else render.console().print(render.model(found))


@main.command()
@prompt_flags
@click.option("--json", "as_json", is_flag=True, help="One line of JSON, with the token ids.")
@click.pass_obj
def tokens(
    client: Client, /, prompt: str | None, file: Any, token_ids: bool, chat: bool, system: str | None,
    add_generation_prompt: bool | None, model: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Count the tokens of PROMPT exactly as a generation would."""
    words = read_prompt(prompt, file, token_ids, chat, system)
    try:
        found = client.count_tokens(words, model=model or "", add_generation_prompt=add_generation_prompt)
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    click.echo(message_line(found) if as_json else found.token_count)


main.add_command(compare)
main.add_command(health)
main.add_command(top)


def _sum_up(run: Run, out: Console, show_steps: bool) -> None:
    """End the text; the steps and the summary go to stderr where the text went to a file."""
    if run.started is None:
        return
    if out.is_terminal:
        out.print("\n", render.legend(), sep="\n")
    about = out if out.is_terminal else render.console(stderr=True)
    if not out.is_terminal and run.text and not run.text.endswith("\n"):
        click.echo()
    if show_steps and run.tokens:
        about.print(render.steps(run, about.width))
    about.print(Text(render.summary(run), style="dim"), soft_wrap=True)


if __name__ == "__main__":
    main(prog_name="thermostat")
