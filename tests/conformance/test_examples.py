"""Every client's example does what it says: tokens with entropy and temperature, an error, a deadline, a cancel."""

import re
from pathlib import Path

import pytest

from tests.conformance.programs import CHOSEN, PREVIOUS, program
from thermostat import Client, EntropyBand, Output

CLIENTS = Path(__file__).parents[2] / "clients"
PAGE = Path(__file__).parents[2] / "docs/clients.md"
EXAMPLES = [CLIENTS / path for path in re.findall(r"<!-- from: clients/(\S+) -->", PAGE.read_text())]


@pytest.mark.parametrize("name", [name for name in CHOSEN if name not in PREVIOUS])
def test_an_example_streams_tokens_and_meets_an_error_a_deadline_and_a_cancel(name, live):
    printed = program(name, "example").output(live.of(name))
    with Client(live.grpc) as client:
        events = client.generate("class Parser:\n    def", policy=EntropyBand(), seed=7, max_output_tokens=16)
        infos = [token.sampling_info for event in events if isinstance(event, Output) for token in event.tokens]
    expected = [(f"{info.original_entropy:.2f}", f"{info.temperature:.2f}") for info in infos]
    assert re.findall(r"(\d+\.\d\d) nats  T = (\d+\.\d\d)", printed) == expected
    assert "refused: filters.top_p must be a finite number above 0 and at most 1\n" in printed
    assert re.search(r"^deadline: \S*deadline.?exceeded$", printed, re.IGNORECASE | re.MULTILINE)
    assert re.search(r"^cancel: \S*cancell?ed$", printed, re.IGNORECASE | re.MULTILINE)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(CLIENTS)))
def test_an_example_is_short(path):
    assert len(path.read_text().splitlines()) <= 60
