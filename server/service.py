"""The gRPC handlers: read the request, hand it to the engine, stream what comes back."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import grpc

from server import __version__
from server.access.interceptor import CALLER
from server.config import Config
from server.convert.policies import policy_descriptions
from server.convert.requests import read_breakers, read_request, read_score, tokens_per_message, wants_info
from server.convert.responses import finished_message, output_message, started_message
from server.engine.engine import Engine, TooLarge
from server.engine.events import Cause, Drawn, Failed, Finished, Started
from server.engine.inbox import EngineDown, QueueFull
from server.engine.model import Model
from server.engine.request import GenerationRequest
from server.engine.scheduler import Limits
from server.engine.tokenizer import Tokenizer
from server.errors import (
    Violation,
    internal,
    invalid,
    not_found,
    queue_full,
    reporting,
    stalled,
    too_long,
    unavailable,
)
from server.prompts import Prompts
from server.streams import Stream, Streams
from thermostat.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc


class GenerationService(generation_pb2_grpc.GenerationServiceServicer):
    """Generate and Score. Admission is the engine's; nothing is sent before the first token."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        prompts: Prompts,
        engine: Engine,
        streams: Streams,
        max_seconds: float | None = None,
    ) -> None:
        self._model = model
        self._max_seconds = max_seconds
        self._token_bytes = tokenizer.token_bytes
        self._prompts = prompts
        self._engine = engine
        self._streams = streams
        self.draining = False

    async def Generate(
        self, request: generation_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[generation_pb2.GenerateResponse]:
        """Stream one generation."""
        async with aclosing(self._stream(request, context, self._read_generation)) as events:
            async for event in events:
                yield generation_pb2.GenerateResponse(**event)

    async def Score(
        self, request: generation_pb2.ScoreRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[generation_pb2.ScoreResponse]:
        """Stream the sampling info of a given text."""
        async with aclosing(self._stream(request, context, self._read_scoring)) as events:
            async for event in events:
                yield generation_pb2.ScoreResponse(**event)

    async def _stream(
        self, request: Any, context: grpc.aio.ServicerContext, read: Callable[[Any], Awaitable[GenerationRequest]]
    ) -> AsyncGenerator[dict[str, Any]]:
        """The events of one stream, by the names of their fields."""
        async with reporting(context):
            if self.draining:
                raise unavailable("the server is shutting down")
            check_model(request.model, self._model.name)
            client = CALLER.get() or _host(context.peer())
            if self._engine.full(client):  # told before any work is done for it
                raise queue_full("too many generations run or wait already")
            generation = replace(await read(request), client=client)
            stream = self._streams.open(generation.id, self._engine)
            try:
                self._submit(generation)
                async for event in self._respond(request, generation, stream):
                    yield event
            finally:
                # A cancel, a deadline and a lost connection all arrive here; the row is free within one step.
                self._engine.cancel(generation.id)
                self._streams.close(generation.id)

    async def _read_generation(self, request: generation_pb2.GenerateRequest) -> GenerationRequest:
        violations: list[Violation] = []
        arguments = read_request(request, self._model.vocab_size, violations)
        prompt = await self._prompts.read(request, violations, len(arguments["resume"].tokens) + 1)
        form = await self._prompts.form(request.constraint, arguments["resume"].tokens, violations)
        return await self._resolved(request, arguments | {"prompt": prompt, "form": form}, violations)

    async def _read_scoring(self, request: generation_pb2.ScoreRequest) -> GenerationRequest:
        violations: list[Violation] = []
        arguments = read_score(request, self._model.vocab_size, violations)
        text = await self._prompts.read(request, violations, 0)
        if text and arguments["scored_from"] >= len(text):
            allowed = f"must leave a token to score; the text has {len(text)}"
            violations.append(Violation("prompt_tokens", allowed))
        return await self._resolved(request, arguments | {"prompt": text}, violations)

    async def _resolved(
        self, request: Any, arguments: dict[str, Any], violations: list[Violation]
    ) -> GenerationRequest:
        """INVALID_ARGUMENT with every violation, if there are any."""
        breakers = await self._prompts.containing(read_breakers(request.penalties, violations))
        if violations:
            raise invalid(violations)
        return GenerationRequest(id=secrets.token_hex(8), breakers=breakers, **arguments)

    def _submit(self, generation: GenerationRequest) -> None:
        try:
            self._engine.submit(generation)
        except QueueFull as full:
            raise queue_full(str(full)) from full
        except EngineDown as down:
            raise unavailable(str(down)) from down
        except TooLarge as large:
            raise invalid([Violation("stopping.max_output_tokens", f"is too large: {large}")]) from large

    async def _respond(
        self, request: Any, generation: GenerationRequest, stream: Stream
    ) -> AsyncIterator[dict[str, Any]]:
        gather, with_info = tokens_per_message(request), wants_info(request)
        drawn: list[Drawn] = []
        ends = None if self._max_seconds is None else asyncio.get_running_loop().time() + self._max_seconds
        while True:
            try:
                async with asyncio.timeout_at(ends):
                    event = await stream.get()
            except TimeoutError:
                raise too_long(f"the server lets a generation take {self._max_seconds:g} s") from None
            rest = event.text if isinstance(event, Finished) else ""
            if isinstance(event, Started):
                yield {"started": started_message(generation, event, self._model.name)}
            elif isinstance(event, Drawn):
                drawn.append(event)
            elif isinstance(event, Failed):
                raise _FAILURES[event.cause](event.message)
            if len(drawn) >= gather or (isinstance(event, Finished) and (drawn or rest)):
                yield {"output": output_message(drawn, rest, self._token_bytes, with_info)}
                drawn = []
            if isinstance(event, Finished):
                yield {"finished": finished_message(event)}
                return


_FAILURES = {
    Cause.FAULT: internal,
    Cause.UNAVAILABLE: unavailable,
    Cause.DISPLACED: queue_full,
    Cause.STALLED: stalled,
    Cause.FORM: lambda told: invalid([Violation("constraint", told)]),
}


def _host(peer: str) -> str:
    """The address of a peer without its port: "ipv4:10.0.0.7:51234" is one client with all its connections."""
    return peer.rpartition(":")[0] or peer


class ModelService(model_pb2_grpc.ModelServiceServicer):
    """What is served."""

    def __init__(self, model: Model, tokenizer: Tokenizer, prompts: Prompts, limits: Limits, config: Config) -> None:
        self._model = model
        self._prompts = prompts
        self._description = model_pb2.Model(
            name=model.name,
            architecture=model.architecture,
            parameters=model.parameters,
            vocab_size=model.vocab_size,
            context_length=model.context_length,
            dtype=model.dtype,
            device=str(model.device),
            eos_token_ids=sorted(model.eos),
            has_chat_template=tokenizer.has_chat_template,
            max_rows=limits.rows,
            max_queue=config.max_queue,
            kv_cache_tokens=limits.kv_tokens,
            server_version=__version__,
        )

    async def GetModel(
        self, request: model_pb2.GetModelRequest, context: grpc.aio.ServicerContext
    ) -> model_pb2.GetModelResponse:
        """Describe the model."""
        async with reporting(context):
            check_model(request.model, self._model.name)
            return model_pb2.GetModelResponse(model=self._description)

    async def ListPolicies(
        self, request: model_pb2.ListPoliciesRequest, context: grpc.aio.ServicerContext
    ) -> model_pb2.ListPoliciesResponse:
        """List the policies."""
        return policy_descriptions()

    async def CountTokens(
        self, request: model_pb2.CountTokensRequest, context: grpc.aio.ServicerContext
    ) -> model_pb2.CountTokensResponse:
        """Count the tokens of a prompt."""
        async with reporting(context):
            check_model(request.model, self._model.name)
            violations: list[Violation] = []
            ids = await self._prompts.read(request, violations, 1)
            if violations:
                raise invalid(violations)
            return model_pb2.CountTokensResponse(token_count=len(ids), token_ids=ids)


def check_model(wanted: str, served: str) -> None:
    """NOT_FOUND unless `wanted` is empty or the served model."""
    if wanted and wanted != served:
        raise not_found("model", wanted, served)
