"""A server with canned answers behind real gRPC: the contract without a model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc import status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from thermostat.v1 import generation_pb2 as generation
from thermostat.v1 import generation_pb2_grpc, model_pb2, model_pb2_grpc

TOKENS = [b"is", b"_", b"even", b"(n", b"):", b"\n   ", b" return", b" n", b" %", b" ", b"2", b" ==", b" \xc3", b"\xa4"]
"""The text of every generation, again and again; the last two are one character."""
TEXT = b"".join(TOKENS).decode()


@dataclass
class Failure:
    """A status to end with, and after how many tokens."""

    code: grpc.StatusCode
    message: str
    details: tuple[Message, ...] = ()
    after: int = 0


@dataclass
class FakeServer(
    generation_pb2_grpc.GenerationServiceServicer, model_pb2_grpc.ModelServiceServicer
):  # one object, both services
    """Serve on a free port of the loopback; a context manager."""

    failures: list[Failure] = field(default_factory=list)
    """What the next calls of Generate end with, first to last; empty is success."""
    endless: bool = False
    """Stop after the second token until the call is cancelled."""
    requests: list[generation.GenerateRequest] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    """Set when the server sees that a running generation was cancelled."""

    def __enter__(self) -> FakeServer:
        # Its way that does not block deadlocks when a status is set while a client watches.
        self.health = health.HealthServicer(experimental_non_blocking=False)
        self._server = grpc.server(ThreadPoolExecutor(8))
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(self, self._server)
        model_pb2_grpc.add_ModelServiceServicer_to_server(self, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()

    def set_serving(self, serving: bool) -> None:
        """What the health service says."""
        status = health_pb2.HealthCheckResponse
        self.health.set("", status.SERVING if serving else status.NOT_SERVING)

    def Generate(
        self, request: generation.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[generation.GenerateResponse]:
        self.requests.append(request)
        failure = self.failures.pop(0) if self.failures else None
        if failure and not failure.after:
            _abort(context, failure)
        if self.endless:
            context.add_callback(self.cancelled.set)
        for count, response in enumerate(events(request)):
            if failure and count > failure.after:
                _abort(context, failure)
            if self.endless and count == 4:  # started, an unknown event and two tokens have gone out
                self.cancelled.wait(10)
                return
            yield response

    def GetModel(self, request: model_pb2.GetModelRequest, context: grpc.ServicerContext) -> model_pb2.GetModelResponse:
        if request.model not in ("", "fake"):
            context.abort(grpc.StatusCode.NOT_FOUND, f"model {request.model!r} is not served here; fake is")
        return model_pb2.GetModelResponse(
            model=model_pb2.Model(name="fake", architecture="none", parameters=1_234_567, vocab_size=100,
                                  context_length=2048, dtype="float32", device="cpu", eos_token_ids=[0], max_rows=8,
                                  max_queue=4, kv_cache_tokens=16384, server_version="0.0.0")
        )  # fmt: skip

    def ListPolicies(
        self, request: model_pb2.ListPoliciesRequest, context: grpc.ServicerContext
    ) -> model_pb2.ListPoliciesResponse:
        temperature = model_pb2.ParameterDescription(
            name="temperature", help="Temperature.", number=1, minimum=0, minimum_excluded=True
        )
        choice = model_pb2.ParameterDescription(
            name="normalizer", help="Unit.", choice="nats", choices=["nats", "vocabulary"]
        )
        return model_pb2.ListPoliciesResponse(
            policies=[
                model_pb2.PolicyDescription(name="fixed", summary="The same.", parameters=[temperature]),
                model_pb2.PolicyDescription(name="entropy_band", summary="A ramp.", parameters=[choice]),
                model_pb2.PolicyDescription(name="greedy", summary="The most likely token."),
            ]
        )

    def CountTokens(
        self, request: model_pb2.CountTokensRequest, context: grpc.ServicerContext
    ) -> model_pb2.CountTokensResponse:
        ids = list(request.token_ids.ids) or list(request.text.encode())
        return model_pb2.CountTokensResponse(token_count=len(ids), token_ids=ids)


def events(request: generation.GenerateRequest) -> Iterator[generation.GenerateResponse]:
    """The stream for a request, with an event of an unknown kind in it."""
    count = request.stopping.max_output_tokens or len(TOKENS)
    started = generation.Started(
        generation_id="g1", model="fake", policy=request.policy, seed=request.seed, prompt_tokens=4,
        max_output_tokens=count,
    )  # fmt: skip
    yield generation.GenerateResponse(started=started)
    yield generation.GenerateResponse()
    pending = b""
    for index in range(count):
        token = TOKENS[index % len(TOKENS)]
        pending += token
        try:
            text, pending = pending.decode(), b""
        except UnicodeDecodeError:
            text, pending = pending[:-1].decode(), pending[-1:]
        output = generation.Output(text_delta=text, tokens=[_token(request, index, token)])
        yield generation.GenerateResponse(output=output)
    yield generation.GenerateResponse(finished=_finished(request, count))


def _temperature(request: generation.GenerateRequest) -> float | None:
    kind = request.policy.WhichOneof("kind")
    return None if kind == "greedy" else {"entropy_band": 0.8, "target_entropy": 1.25}.get(kind, 1.0)


def _token(request: generation.GenerateRequest, index: int, token: bytes) -> generation.Token:
    entropy = (index * 5 % 12) / 2
    info = generation.SamplingInfo(
        original_entropy=entropy, final_entropy=entropy * 0.75, entropy_change=-entropy * 0.25, effective_vocab_size=40,
        original_vocab_size=100, top_token_prob=0.5, temperature=_temperature(request), scaled_entropy=entropy * 0.9,
    )  # fmt: skip
    wanted = not request.response_options.HasField("sampling_info") or request.response_options.sampling_info
    return generation.Token(
        index=index, token_id=index % 7, token_bytes=token, logprob=-1.0, filtered_logprob=-0.5, rank=index % 3 + 1,
        sampling_info=info if wanted else None,
    )  # fmt: skip


def _finished(request: generation.GenerateRequest, count: int) -> generation.Finished:
    finished = generation.Finished(
        reason=generation.FINISH_REASON_MAX_OUTPUT_TOKENS,
        usage=generation.Usage(prompt_tokens=4, output_tokens=count),
        summary=generation.Summary(
            original_entropy=generation.Distribution(mean=2.5, min=0, max=5.5),
            final_entropy=generation.Distribution(mean=1.875, min=0, max=4.125),
            mean_surprisal=1.0, perplexity=2.718, bits_per_token=1.443,
        ),
    )  # fmt: skip
    if (temperature := _temperature(request)) is not None:
        finished.summary.temperature.CopyFrom(
            generation.Distribution(mean=temperature, min=temperature, max=temperature)
        )
    finished.timing.decode.FromMilliseconds(100)
    return finished


def _abort(context: grpc.ServicerContext, failure: Failure) -> None:
    status = status_pb2.Status(code=failure.code.value[0], message=failure.message)
    for message in failure.details:
        packed = Any()
        packed.Pack(message)
        status.details.append(packed)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(failure.code, failure.message)
