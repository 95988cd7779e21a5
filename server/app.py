"""From a Config to a running server, and to its orderly end."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from server.access.guard import Guard
from server.access.reading import Reader
from server.config import Config
from server.engine.events import Cause, Failed, Finished
from server.engine.loading import ModelSource, free_memory, load
from server.engine.local import LocalEngine
from server.engine.model import Model
from server.engine.request import GenerationRequest, Stopping
from server.engine.scheduler import Limits
from server.prompts import Prompts
from server.service import GenerationService, ModelService
from server.sight.sight import Sight
from server.streams import Streams
from thermostat.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc

if TYPE_CHECKING:
    from server.web import Web

_log = logging.getLogger(__name__)
_SERVICES = tuple(
    proto.DESCRIPTOR.services_by_name[name].full_name
    for proto, name in ((generation_pb2, "GenerationService"), (model_pb2, "ModelService"))
)
_OPTIONS = (
    ("grpc.max_send_message_length", 16 << 20),
    # A long prefill is quiet: let clients ping every 10 s without being sent away for it.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),
    # A client that vanished without a word is found out, and its row freed, within forty seconds.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)
# Shares of the free memory that KV may take when nobody says. On the CPU it is only touched as it is used.
_KV_SHARE = {"cpu": 0.25, "cuda": 0.8}
_CHUNK = {"cpu": 256, "cuda": 2048}
_LAST_WORDS_SECONDS = 1.0
"""What streams get to read their end after the engine died."""
_LAST_STEP_SECONDS = 5.0


@dataclass(slots=True)
class App:
    """A server that is being served."""

    server: grpc.aio.Server
    engine: LocalEngine
    generation: GenerationService
    health: health.aio.HealthServicer
    address: str
    engine_ended: asyncio.Event
    guard: Guard
    sight: Sight
    watchdog: asyncio.Task
    web: "Web | None"


def find_limits(config: Config, model: Model) -> Limits:
    """Rows, KV budget in tokens, and prompt tokens a step."""
    kind = model.device.type
    budget = free_memory(model.device) * _KV_SHARE[kind] if config.kv_memory is None else config.kv_memory * 2**30
    tokens = int(budget // max(1, model.bytes_per_token))
    # More than every row can use is never needed.
    tokens = min(tokens, config.max_rows * model.context_length)
    return Limits(config.max_rows, tokens, config.prefill_chunk or _CHUNK[kind], config.prefix_cache)


def web_port(config: Config) -> "Web | None":
    """The port for browsers, if one is wanted. OSError if it cannot be had."""
    if config.web_port is None:
        return None
    try:
        from server.web import Web
    except ImportError as lack:
        raise RuntimeError(f"a web port needs thermostat-server[web]: {lack}") from None
    return Web(config.host, config.web_port, config.web_origin)


async def start(config: Config) -> App:
    """Load, listen, warm up, and only then say SERVING. RefusedModel if the model cannot be served."""
    loop = asyncio.get_running_loop()
    # Before the model, which may take minutes: whatever is wrong here is told at once.
    guard, streams = Guard(config), Streams(loop, config.stall_timeout)
    sight = Sight(config, streams.deliver)
    source = ModelSource(
        config.model, config.revision, config.device, config.dtype, config.trust_remote_code, config.context_length,
        config.compile,
    )  # fmt: skip
    model, tokenizer = load(source)
    model.name = config.model_name or config.model.rstrip("/").rsplit("/", 1)[-1]
    limits = find_limits(config, model)
    ended = asyncio.Event()
    engine = LocalEngine(
        model, tokenizer.token_bytes, limits, config.max_queue, sight.deliver, _from_thread(loop, ended),
        config.max_per_client,
    )  # fmt: skip
    options = (*_OPTIONS, ("grpc.max_receive_message_length", config.max_message_bytes))
    server = grpc.aio.server(options=options, interceptors=[sight.interceptor, *guard.interceptors, Reader()])
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    prompts = Prompts(tokenizer, model.vocab_size, model.context_length)
    generation = GenerationService(model, tokenizer, prompts, sight.around(engine), streams, config.max_duration)
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(generation, server)
    model_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(model, tokenizer, prompts, limits, config), server)
    if config.reflects:
        reflection.enable_server_reflection((*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    watchdog = loop.create_task(_watch(engine, streams, ended, config.step_timeout))
    web = web_port(config)
    if web is not None:
        server.add_insecure_port(web.target)
    app = App(server, engine, generation, servicer, guard.listen(server), ended, guard, sight, watchdog, web)
    await _set_health(app, health_pb2.HealthCheckResponse.NOT_SERVING)
    engine.start()
    await server.start()
    await _warm_up(engine, streams)
    sight.start(limits.rows, limits.kv_tokens, model=model.name, dtype=model.dtype, device=str(model.device))
    guard.keep_fresh()
    if web is not None:
        await web.start()
    await _set_health(app, health_pb2.HealthCheckResponse.SERVING)
    _log.info(
        "serving %s (%s, %s, %s): %d rows, %d KV tokens, context %d",
        model.name, model.architecture, model.dtype, model.device, limits.rows, limits.kv_tokens, model.context_length,
    )  # fmt: skip
    return app


async def stop(app: App, grace: float, delay: float = 0.0) -> None:
    """Say NOT_SERVING, go on for `delay` seconds while word gets round, refuse what is new, let what runs finish within
    `grace` seconds, end."""
    await app.health.enter_graceful_shutdown()
    await asyncio.sleep(delay)
    app.generation.draining = True
    await app.server.stop(grace)
    await app.sight.stop()
    app.watchdog.cancel()
    if app.web is not None:
        await app.web.stop()
    # A step that hangs does not end for being asked to; the process ends around it.
    await asyncio.to_thread(app.engine.stop, _LAST_STEP_SECONDS)


async def serve(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; a second signal is quick. The exit status: 1 if the engine died."""
    # A decode thread and the event loop share the interpreter; shorter turns keep tokens from waiting for one another.
    sys.setswitchinterval(0.0005)
    app = await start(config)
    asked, loop = asyncio.Event(), asyncio.get_running_loop()

    def signalled() -> None:
        if asked.is_set():
            _log.warning("second signal: stopping at once")
            hurry.append(loop.create_task(app.server.stop(0)))
        asked.set()

    hurry: list[asyncio.Task] = []
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, signalled)
    loop.add_signal_handler(signal.SIGHUP, app.guard.refresh)
    # Told last: whoever reads this may send a signal at once.
    print(f"listening on {app.address}", flush=True)
    if app.sight.address:
        print(f"metrics on {app.sight.address}", flush=True)
    if app.web is not None:
        print(f"web on {app.web.address}", flush=True)
    waits = [loop.create_task(asked.wait()), loop.create_task(app.engine_ended.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    died = app.engine_ended.is_set()
    await stop(app, *((_LAST_WORDS_SECONDS, 0.0) if died else (config.grace, config.drain_delay)))
    for wait in waits:
        wait.cancel()
    return int(died)


async def _watch(engine: LocalEngine, streams: Streams, ended: asyncio.Event, seconds: float) -> None:
    """Treat an engine whose step hangs as dead, so that clients and the supervisor can go on."""
    while not engine.hangs(seconds):
        await asyncio.sleep(min(1.0, seconds / 4))
    _log.critical("a step has taken longer than %g s: the engine hangs", seconds)
    streams.fail_all(Failed("the engine hangs", Cause.UNAVAILABLE))
    ended.set()


def _from_thread(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> Callable[[], None]:
    def ended() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(event.set)

    return ended


async def _set_health(app: App, status: int) -> None:
    for name in ("", *_SERVICES):
        await app.health.set(name, status)


async def _warm_up(engine: LocalEngine, streams: Streams) -> None:
    """One real generation through the whole engine. RuntimeError if it fails."""
    stream = streams.open("warm-up", engine)
    engine.submit(GenerationRequest("warm-up", (0,), stopping=Stopping(max_output_tokens=2, ignore_eos=True)))
    while not isinstance(event := await stream.get(), Finished):
        if isinstance(event, Failed):
            raise RuntimeError(f"the warm-up generation failed: {event.message}")
    streams.close("warm-up")
