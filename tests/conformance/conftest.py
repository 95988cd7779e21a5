"""One live server for all tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.conformance import servers
from tests.conformance.servers import Addresses


@pytest.fixture(scope="session")
def live() -> Iterator[Addresses]:
    with servers.live() as addresses:
        yield addresses


@pytest.fixture
def address(live: Addresses) -> str:
    return live.grpc
