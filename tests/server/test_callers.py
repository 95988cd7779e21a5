"""Callers from a file, their gates, and files that change, without a server."""

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from server.access.callers import Callers, Gate, TooMany, read_callers
from server.access.reload import BadFile, Watched

TOKEN = "correct horse battery staple"


def callers(tmp_path: Path, text: str, before: Callers | None = None) -> Callers:
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    return read_callers(path, before)


def test_a_caller_is_found_by_its_token_or_by_its_digest(tmp_path):
    digest = hashlib.sha256(b"another token of enough length").hexdigest()
    found = callers(tmp_path, f'[alice]\ntoken = "{TOKEN}"\n[bob]\nsha256 = "{digest}"')
    assert found.find(TOKEN).name == "alice"
    assert found.find("another token of enough length").name == "bob"
    assert found.find(TOKEN[:-1]) is None and found.find("") is None and found.find(digest) is None


def test_a_caller_may_call_the_services_that_its_table_names(tmp_path):
    found = callers(tmp_path, f'[a]\ntoken = "{TOKEN}"\nservices = ["thermostat.v1.ModelService"]').find(TOKEN)
    assert found.may_call("/thermostat.v1.ModelService/GetModel")
    assert not found.may_call("/thermostat.v1.GenerationService/Generate")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "names no caller"),
        ("[a]", r"\[a\] must have either token"),
        ('[a]\ntoken = "short"', "at least 16 characters"),
        (f'[a]\ntoken = "{TOKEN}"\nsha256 = "00"', "either token"),
        (f'[a]\ntoken = "{TOKEN}"\nmax_running = 0', r"\[a\] max_running must be a whole number, at least 1"),
        (f'[a]\ntoken = "{TOKEN}"\nmax_waiting = true', r"\[a\] max_waiting"),
        (f'[a]\ntoken = "{TOKEN}"\nservices = "all"', r"\[a\] services must be a list"),
        (f'[a]\ntoken = "{TOKEN}"\nlimit = 3', r"\[a\] must be a table with"),
        (f'[a]\ntoken = "{TOKEN}"\n[b]\ntoken = "{TOKEN}"', "same token"),
        ("a = ", "Invalid value"),
    ],
)
def test_a_bad_table_is_named_with_what_is_allowed(tmp_path, text, told):
    with pytest.raises(ValueError, match=told):
        callers(tmp_path, text)


def test_a_gate_lets_in_as_many_as_it_may_in_their_order():
    async def main() -> None:
        gate, order, leave = Gate(1, 2), [], asyncio.Event()

        async def one(number: int) -> None:
            async with gate.hold():
                order.append(number)
                await leave.wait()

        tasks = [asyncio.create_task(one(number)) for number in range(3)]
        await asyncio.sleep(0)
        assert (order, gate.waiting) == ([0], 2)
        with pytest.raises(TooMany, match="1 generations of this caller run and 2 wait"):
            async with gate.hold():
                pass
        tasks[1].cancel()  # who goes while it waits takes no place
        leave.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (order, gate.waiting) == ([0, 2], 0)

    asyncio.run(main())


def test_a_new_file_leaves_unchanged_callers_their_places(tmp_path):
    first = callers(tmp_path, f'[a]\ntoken = "{TOKEN}"\nmax_running = 2')
    second = callers(tmp_path, f'[a]\ntoken = "{TOKEN} new"\nmax_running = 2', first)
    assert second.callers[0].gate is first.callers[0].gate
    third = callers(tmp_path, f'[a]\ntoken = "{TOKEN}"\nmax_running = 3', second)
    assert third.callers[0].gate is not first.callers[0].gate


def test_a_bad_file_leaves_the_old_value_in_force_until_a_good_one_comes(tmp_path, caplog):
    path = tmp_path / "number"
    path.write_text("1")
    watched = Watched("number", [path], lambda: int(path.read_text()))
    for text, value in (("x", 1), ("22", 22)):
        path.write_text(text)
        os.utime(path, ns=(0, len(text)))  # however coarse the clock of the file system
        watched.refresh()
        assert watched.value == value
    path.unlink()
    watched.refresh()
    assert watched.value == 22
    assert "the new number cannot be used, the old stays in force" in caplog.text
    with pytest.raises(BadFile, match="the number cannot be used"):
        Watched("number", [path], lambda: int(path.read_text()))
