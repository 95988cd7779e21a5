"""Who may import whom, and the stubs' agreement with the contract's Python names."""

import ast
import dataclasses
from pathlib import Path

import pytest

import thermostat
from thermostat.v1 import policy_pb2

ROOT = Path(__file__).parents[1]
WIRE = {
    "server/convert/policies.py",
    "server/convert/requests.py",
    "server/convert/responses.py",
    "server/service.py",
    "server/app.py",
    "server/errors.py",
    "server/prompts.py",
    "server/web.py",
    "server/access/guard.py",
    "server/access/interceptor.py",
    "server/access/reading.py",
    "server/access/tls.py",
    "server/sight/ledger.py",
}


def imports(path: Path) -> set[str]:
    """The modules that a file imports, full names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def files(folder: str) -> list[Path]:
    return [path for path in sorted((ROOT / folder).rglob("*.py")) if "v1" not in path.parts]


def tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def test_adaptive_stands_alone_but_for_the_file_that_plugs_into_transformers():
    for path in files("adaptive"):
        allowed = {"transformers"} if path.name == "huggingface.py" else set()
        assert not tops(path) & {"server", "thermostat", "grpc", "google", "transformers"} - allowed, path
        assert "adaptive.huggingface" not in imports(path), path


def test_the_client_needs_neither_torch_nor_the_server():
    for path in files("clients/python/thermostat"):
        assert not tops(path) & {"server", "adaptive", "torch", "transformers"}, path


def test_grpc_and_protobuf_stop_at_the_edge_of_the_server():
    for path in files("server"):
        if str(path.relative_to(ROOT)) not in WIRE:
            assert not tops(path) & {"grpc", "google", "thermostat", "grpc_health"}, path


@pytest.mark.parametrize("name", ["scheduler", "request", "events", "stopping", "generation", "inbox"])
def test_scheduling_knows_neither_torch_nor_grpc(name):
    assert not tops(ROOT / "server/engine" / f"{name}.py") & {"torch", "transformers", "grpc", "google"}


def test_the_clients_policy_classes_have_the_contracts_parameters():
    arms = {field.name: field.message_type for field in policy_pb2.Policy.DESCRIPTOR.fields}
    classes = {cls.__name__: cls for cls in vars(thermostat).values() if dataclasses.is_dataclass(cls)}
    for arm, message in arms.items():
        cls = classes["".join(part.capitalize() for part in arm.split("_"))]
        assert [field.name for field in dataclasses.fields(cls)] == [field.name for field in message.fields]
