"""Clients whose gRPC knows the health check of the service config call no server that says it does not serve."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.conformance.programs import CHOSEN, program
from thermostat.v1 import generation_pb2 as pb
from thermostat.v1 import generation_pb2_grpc

CHECKING = ("python", "python-async", "go", "cpp", "ruby")


class Drained(generation_pb2_grpc.GenerationServiceServicer):
    """Answers, though health says that it should not be asked."""

    def Generate(self, request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        yield pb.GenerateResponse(finished=pb.Finished())


@pytest.fixture
def drained() -> Iterator[str]:
    server, servicer = grpc.server(ThreadPoolExecutor(4)), health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(Drained(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize("client", [name for name in CHOSEN if name in CHECKING])
def test_a_server_that_does_not_serve_is_not_called(client, drained, tmp_path):
    suite = tmp_path / "suite.json"
    suite.write_text(json.dumps({"scenarios": [{"name": "one", "request": {"text": "a"}}]}))
    (result,) = program(client, "conformance").run(drained, suite)
    assert result["code"] == grpc.StatusCode.UNAVAILABLE.value[0]
    assert not result.get("responses")
