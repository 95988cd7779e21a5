"""`python -m server`: the command that starts a server."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import click

from server.config import Config
from server.settings import read_file, resolved
from server.sight.log import set_up

# Read when torch is imported. OpenMP's threads spin while they wait; on cores that are shared with anything else, the
# event loop to begin with, that costs more than it gains. A short spin measured best of both. See gcc's libgomp.
os.environ.setdefault("GOMP_SPINCOUNT", "4000")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(context_settings={"auto_envvar_prefix": "THERMOSTAT", "show_default": True})
@click.option(
    "--config", type=_FILE, is_eager=True, expose_value=False, callback=read_file, help="Settings from this TOML file."
)
@click.option("--print-config", is_flag=True, help="Show every setting and where it comes from, and end.")
@click.option("--model", default="embedded", help="embedded, a folder, or a hub name.")
@click.option("--model-name", help="Name under which clients know the model.  [default: the last part of --model]")
@click.option("--revision", help="Branch, tag or commit of a hub model.")
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    help="Type of the weights; auto is float32 on the CPU and the checkpoint's own on a GPU.",
)
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that comes with the model.")
@click.option("--context-length", type=click.IntRange(2), help="Serve a shorter context than the model's.")
@click.option(
    "--compile/--no-compile",
    default=None,
    help="Machine code for this processor, on the CPU: a quarter of a minute once.  [default: with a C++ compiler]",
)
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=50051, help="Port to listen on; 0 picks a free one.")
@click.option("--uds", type=click.Path(path_type=Path), help="Listen on this Unix socket too.")
@click.option("--tcp/--no-tcp", default=True, help="Whether to listen on --host and --port.")
@click.option("--tls-cert", type=_FILE, help="Certificate chain, PEM. Read again when it changes.")
@click.option("--tls-key", type=_FILE, help="Its key, PEM.")
@click.option("--tls-client-ca", type=_FILE, help="Clients must have a certificate of one of these authorities, PEM.")
@click.option("--insecure", is_flag=True, help="Plain text even where others can connect.")
@click.option("--tokens", type=_FILE, help="Only callers with a bearer token of this TOML file. Read when it changes.")
@click.option(
    "--max-message-bytes", type=click.IntRange(1024, 1 << 30), default=4 << 20, help="Largest request, in bytes."
)
@click.option(
    "--web-port",
    type=click.IntRange(0, 65535),
    help="Port for browsers: Connect and gRPC-Web over plain HTTP; 0 picks a free one.  [default: none]",
)
@click.option(
    "--web-origin", multiple=True, help="Origin whose pages may call, as https://example.org; * is any. Repeatable."
)
@click.option("--max-rows", type=click.IntRange(1, 1024), default=64, help="Most generations that decode at once.")
@click.option("--max-queue", type=click.IntRange(0), default=256, help="Most generations that wait.")
@click.option("--kv-memory", type=click.FloatRange(0, min_open=True), help="KV memory in GiB.  [default: found]")
@click.option("--prefill-chunk", type=click.IntRange(16), help="Prompt tokens a step.  [default: 256, 2048 on a GPU]")
@click.option(
    "--prefix-cache/--no-prefix-cache",
    default=True,
    help="Whether prompts that begin alike share what is computed of their beginning.",
)
@click.option("--reflection/--no-reflection", default=None, help="Server reflection.  [default: on loopback only]")
@click.option(
    "--max-per-client", type=click.IntRange(1), help="Most generations of one client, by token or address, run or wait."
)
@click.option("--max-duration", type=click.FloatRange(0, min_open=True), help="Seconds that a generation may take.")
@click.option(
    "--stall-timeout",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    help="Seconds that a client may leave its stream unread.",
)
@click.option(
    "--step-timeout",
    type=click.FloatRange(0, min_open=True),
    default=300.0,
    help="Seconds after which a step is taken to hang, and the server ends.",
)
@click.option(
    "--drain-delay",
    type=click.FloatRange(0),
    default=0.5,
    help="Seconds at the end between saying NOT_SERVING and refusing.",
)
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="Prometheus metrics on this port.  [default: none]")
@click.option("--metrics-host", default="127.0.0.1", help="Address of the metrics; they tell nothing of any text.")
@click.option("--tracing", is_flag=True, help="Send OpenTelemetry traces; OTEL_EXPORTER_OTLP_ENDPOINT says where.")
@click.option("--otlp-metrics", is_flag=True, help="Send the metrics too, every OTEL_METRIC_EXPORT_INTERVAL ms.")
@click.option("--grace", type=click.FloatRange(0), default=30.0, help="Seconds that running streams get at the end.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", help="json: one object a line.")
@click.version_option(package_name="thermostat-server")
@click.pass_context
def main(context: click.Context, print_config: bool, log_level: str, log_format: str, **settings: Any) -> None:
    """Serve a language model over gRPC, with a temperature that follows the entropy of every token.

    Every option can also be set in the environment (--max-rows is THERMOSTAT_MAX_ROWS) and in the TOML file of --config
    (max-rows = 64). A flag comes before the environment, and that before the file.
    """
    try:
        config = Config(**settings)
    except ValueError as fault:
        raise click.UsageError(str(fault)) from None
    if print_config:
        click.echo(resolved(context))
        return
    set_up(log_level, log_format)
    from server.app import serve  # torch is imported only now, after the environment is set
    from server.engine.loading import RefusedModel

    try:
        status = asyncio.run(serve(config))
    except RefusedModel as refusal:
        raise click.ClickException(str(refusal)) from None
    except (OSError, RuntimeError) as fault:
        raise click.ClickException(f"the server could not start: {fault}") from None
    sys.exit(status)


if __name__ == "__main__":
    main()
