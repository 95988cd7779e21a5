"""Where settings come from, how they show, and that the files of deploy/ use settings that there are."""

import dataclasses
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from server.__main__ import main
from server.config import Config
from tests.whole.conftest import ROOT
from thermostat.cli import main as command


def show(*arguments: str, **variables: str) -> str:
    result = CliRunner(env=variables).invoke(main, [*arguments, "--print-config"])
    assert result.exit_code == 0, result.output
    return result.output


def told(output: str, key: str) -> tuple[str, str]:
    """(value, source) of a setting."""
    return re.search(rf"^{key} = (.*?) +# (\w+)$", output, re.MULTILINE).groups()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text('max-rows = 8\nport = 5\nhost = "localhost"\nreflection = true\n')
    return path


def test_a_flag_comes_before_the_environment_that_before_the_file_and_that_before_the_default(file):
    output = show("--config", str(file), "--host", "::1", THERMOSTAT_HOST="127.0.0.2", THERMOSTAT_PORT="6")
    assert told(output, "host") == ('"::1"', "flag")
    assert told(output, "port") == ("6", "environment")
    assert told(output, "max-rows") == ("8", "file")
    assert told(output, "reflection") == ("true", "file")
    assert told(output, "max-queue") == ("256", "default")
    assert "# kv-memory is not set" in output


def test_what_is_shown_is_a_file_that_gives_the_same_settings(file, tmp_path):
    output = show("--config", str(file), "--grace", "2.5", "--uds", str(tmp_path / "a b"))
    again = tmp_path / "again.toml"
    again.write_text(output)
    assert tomllib.loads(show("--config", str(again))) == tomllib.loads(output)


def test_the_environment_may_name_the_file(file):
    assert told(show(THERMOSTAT_CONFIG=str(file)), "max-rows") == ("8", "file")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max-row = 8", "no setting 'max-row'; there are .*max-rows"),
        ("max-rows = ", "Invalid value"),
        ('max-rows = "many"', "'--max-rows': 'many' is not a valid integer"),
        ("max-rows = 0", "'--max-rows': 0 is not in the range"),
        ('host = "0.0.0.0"', "lets others connect"),
        ('tokens = "/nowhere"', "'--tokens'.*does not exist"),
    ],
)
def test_a_bad_file_is_refused_and_says_what_is_allowed(tmp_path, text, words):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    result = CliRunner().invoke(main, ["--config", str(path), "--print-config"])
    assert result.exit_code == 2
    assert re.search(words, result.output)


def test_the_defaults_of_the_command_are_those_of_config():
    shown = tomllib.loads(show())
    for each in dataclasses.fields(Config):
        value = shown.get(each.name.replace("_", "-"))
        assert (tuple(value) if isinstance(value, list) else value) == each.default


def test_the_example_file_and_the_unit_have_settings_that_there_are(tmp_path):
    text = (ROOT / "deploy/thermostat.toml").read_text()
    for name in ("cert.pem", "key.pem", "tokens.toml"):
        (tmp_path / name).touch()
    path = tmp_path / "settings.toml"
    path.write_text(text.replace("/etc/thermostat", str(tmp_path)))
    assert told(show("--config", str(path)), "metrics-port") == ("9464", "file")
    unit = (ROOT / "deploy/thermostat.service").read_text()
    command = shlex.split(re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)[1])
    assert told(show(command[1], str(path)), "log-format") == ('"json"', "file")
    stop = int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[1])
    assert stop > tomllib.loads(text)["grace"]


def test_the_container_asks_for_tls_and_probes_the_socket_that_it_serves(tmp_path):
    text = (ROOT / "deploy/Containerfile").read_text()
    variables = dict(re.findall(r"(THERMOSTAT_\w+)=(\S+)", text[text.index("ENV ") : text.index("EXPOSE")]))
    refused = CliRunner(env=variables).invoke(main, ["--print-config"])
    assert refused.exit_code == 2 and "lets others connect" in refused.output
    output = show(**variables, THERMOSTAT_INSECURE="1")
    socket = told(output, "uds")
    assert socket[1] == "environment" and f"unix:{socket[0].strip(chr(34))}" in text
    for key in ("host", "metrics-host", "metrics-port", "log-format"):
        assert told(output, key)[1] == "environment"


def test_the_operators_page_names_tests_and_flags_that_there_are():
    page = (ROOT / "docs/operations.md").read_text()
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"::(test_\w+)(…?)`", page)
    assert len(named) > 15
    for name, cut in named:
        assert f"def {name}{'' if cut else '('}" in tests, name
    for path in re.findall(r"`((?:whole|server)/test_\w+\.py)", page):
        assert (ROOT / "tests" / path).exists(), path
    commands = [main, command, *command.commands.values()]
    flags = {flag for each in commands for option in each.params for flag in (*option.opts, *option.secondary_opts)}
    assert set(re.findall(r"`[^`\n]*?(--[a-z][a-z-]+)", page)) <= flags
