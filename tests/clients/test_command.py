"""The `thermostat` command: in process through click, and as a process where signals and streams matter."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import click
import grpc
import pytest
from click.testing import CliRunner, Result
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from tests.clients.fake_server import TEXT, TOKENS, Failure, FakeServer
from thermostat import cli, parse_policy
from thermostat.request import GenerateOptions
from thermostat.v1.generation_pb2 import GenerateResponse


def run(server: FakeServer, *arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli.main, ["--server", server.target, *arguments], input=stdin)


def start(server: FakeServer, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "thermostat", "--server", server.target, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8")


def test_without_a_terminal_stdout_is_the_text_and_stderr_the_summary(server: FakeServer) -> None:
    process = start(server, "generate", "def ", "--seed", "7", "--show-steps")
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out == TEXT + "\n"
    assert "max_output_tokens after 14 tokens" in err and "seed 7" in err and "steps of fixed" in err
    assert "\x1b" not in out + err


def test_interrupting_cancels_the_call_and_still_sums_up(server: FakeServer) -> None:
    server.endless = True
    process = start(server, "generate", "def ")
    assert process.stdout is not None
    assert process.stdout.read(3) == "is_"  # both tokens have come, the server waits
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted after 2 tokens" in err and "Traceback" not in err
    assert server.cancelled.wait(2)


def test_interrupting_a_comparison_cancels_every_call(server: FakeServer) -> None:
    server.endless = True
    process = start(server, "compare", "def ", "--policy", "fixed", "--policy", "greedy", "--json")
    assert process.stdout is not None
    for _ in range(6):  # started and two tokens of each
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "")
    assert server.cancelled.wait(2)


def test_json_is_one_event_a_line_and_nothing_else(server: FakeServer) -> None:
    result = run(server, "generate", "def ", "--json", "--seed", "7")
    events = [json_format.ParseDict(json.loads(line), GenerateResponse()) for line in result.stdout.splitlines()]
    assert [event.WhichOneof("event") for event in events] == ["started", *["output"] * len(TOKENS), "finished"]
    assert events[0].started.seed == 7 and not result.stderr


def test_every_flag_reaches_its_field(server: FakeServer) -> None:
    arguments = (
        "--policy target_entropy:target_entropy=1.5 --model fake --seed 7 -n 3 --min-output-tokens 1 --top-k 5"
        " --top-p 0.9 --min-p 0.1 --stop-sequence a --stop-sequence b --stop-token-id 4 --ignore-eos --time-limit 1.5"
        " --no-sampling-info --candidates 2 --max-tokens-per-message 4 --system S --no-generation-prompt --timeout 20"
    )
    assert run(server, "generate", "Hi", *arguments.split()).exit_code == 0
    request = server.requests[0]
    assert request.policy == parse_policy("target_entropy:target_entropy=1.5")
    assert (request.model, request.seed, request.filters.top_k, request.filters.top_p) == ("fake", 7, 5, 0.9)
    assert request.filters.min_p == 0.1
    assert (request.stopping.max_output_tokens, request.stopping.min_output_tokens) == (3, 1)
    assert list(request.stopping.stop_sequences) == ["a", "b"] and list(request.stopping.stop_token_ids) == [4]
    assert request.stopping.ignore_eos and request.stopping.time_limit == Duration(seconds=1, nanos=500_000_000)
    options = request.response_options
    assert (options.sampling_info, options.candidates, options.max_tokens_per_message) == (False, 2, 4)
    assert [(turn.role, turn.content) for turn in request.chat.messages] == [("system", "S"), ("user", "Hi")]
    assert request.chat.add_generation_prompt is False


def test_flags_that_are_not_given_stay_unset(server: FakeServer) -> None:
    assert run(server, "generate", "def ").exit_code == 0
    set_fields = [field.name for field, _ in server.requests[0].ListFields()]
    assert set_fields == ["text", "policy"]


@pytest.mark.parametrize("name", ["generate", "compare"])
def test_every_option_of_the_client_is_a_flag(name: str) -> None:
    flags = {parameter.name for parameter in cli.main.commands[name].params}
    assert set(GenerateOptions.__annotations__) <= flags | {"policy"}


def test_prompts_come_from_standard_input_a_file_or_token_ids(server: FakeServer, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("from a file", encoding="utf-8")
    assert run(server, "generate", "-", stdin="from stdin").exit_code == 0
    assert run(server, "generate", "--file", str(file)).exit_code == 0
    assert run(server, "generate", "--token-ids", "1, 2 3").exit_code == 0
    assert [request.text for request in server.requests] == ["from stdin", "from a file", ""]
    assert list(server.requests[2].token_ids.ids) == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["generate"], "give either a PROMPT"),
        (["generate", "x", "--policy", "warm"], "no policy is named 'warm'; there are fixed"),
        (["generate", "x", "--policy", "edt:thta=1"], "it takes base_temperature, theta"),
        (["generate", "x", "--seed", "-1"], "-1 is not in the range"),
        (["generate", "x", "--top-k", "99999999999"], "Value out of range"),
        (["generate", "x", "--token-ids"], "invalid literal"),
        (["generate", "x", "--no-generation-prompt"], "goes with a chat only"),
        (["tokens", "x", "--no-generation-prompt"], "goes with a chat only"),
    ],
)
def test_wrong_usage_is_told_and_exits_with_2(server: FakeServer, arguments: list[str], told: str) -> None:
    result = run(server, *arguments)
    assert result.exit_code == 2 and told in result.stderr and not server.requests


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 2),
        (grpc.StatusCode.NOT_FOUND, 2),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 3),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 4),
        (grpc.StatusCode.INTERNAL, 5),
        (grpc.StatusCode.PERMISSION_DENIED, 1),
    ],
)
def test_failures_have_their_exit_status(server: FakeServer, code: grpc.StatusCode, status: int) -> None:
    server.failures = [Failure(code, "it went wrong")]
    result = run(server, "generate", "def ")
    assert (result.exit_code, result.stdout, result.stderr) == (status, "", "Error: it went wrong\n")


def test_no_server_exits_with_3_and_says_where_it_looked() -> None:
    result = CliRunner().invoke(cli.main, ["model"], env={"THERMOSTAT_SERVER": "127.0.0.1:1"})
    assert result.exit_code == 3 and "no answer from the server at 127.0.0.1:1" in result.stderr


def test_every_violation_has_its_line(server: FakeServer) -> None:
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="filters.top_p", description="above 0, at most 1")
    bad.field_violations.add(field="policy.edt.base", description="above 0")
    server.failures = [Failure(grpc.StatusCode.INVALID_ARGUMENT, "filters.top_p: above 0, at most 1; ...", (bad,))]
    result = run(server, "generate", "def ")
    assert result.stderr.splitlines() == [
        "Error: the request is invalid", "  filters.top_p: above 0, at most 1", "  policy.edt.base: above 0",
    ]  # fmt: skip


def test_a_failure_on_the_way_keeps_the_text_and_the_summary(server: FakeServer) -> None:
    info = error_details_pb2.ErrorInfo(reason="INTERNAL", metadata={"incident": "c0ffee"})
    server.failures = [Failure(grpc.StatusCode.INTERNAL, "a fault of the server", (info,), after=3)]
    result = run(server, "generate", "def ")
    assert result.exit_code == 5 and result.stdout == "is_\n"
    assert "failed after 2 tokens" in result.stderr and "(incident c0ffee)" in result.stderr


def test_a_comparison_without_a_terminal_is_the_same_every_time(server: FakeServer) -> None:
    arguments = ["compare", "def ", "--seed", "7", "--policy", "fixed", "--policy", "greedy", "--show-steps"]
    first, second = run(server, *arguments), run(server, *arguments)
    assert first.exit_code == 0 and first.stdout == second.stdout
    assert f"== fixed ==\ndef {TEXT}\n" in first.stdout and f"== greedy ==\ndef {TEXT}\n" in first.stdout
    assert "comparison" in first.stdout and "steps of greedy" in first.stdout and "tokens/s" in first.stderr


def test_a_comparison_picks_one_seed_for_all_and_prints_it(server: FakeServer) -> None:
    result = run(server, "compare", "def ")
    seeds = {request.seed for request in server.requests}
    assert len(server.requests) == 3 and len(seeds) == 1 and f"seed {seeds.pop()}" in result.stdout


def test_a_comparison_as_json_labels_every_line(server: FakeServer) -> None:
    result = run(server, "compare", "def ", "--policy", "fixed", "--policy", "fixed", "--json")
    labels = [json.loads(line)["policy"] for line in result.stdout.splitlines()]
    assert labels.count("fixed") == labels.count("fixed #2") == len(TOKENS) + 2


def test_one_failing_policy_leaves_the_others_to_finish(server: FakeServer) -> None:
    server.failures = [Failure(grpc.StatusCode.INVALID_ARGUMENT, "no")]
    result = run(server, "compare", "def ", "--policy", "fixed", "--policy", "greedy")
    assert result.exit_code == 2 and "max_output_tokens" in result.stdout and ": no\n" in result.stderr


def test_the_policies_show_defaults_and_ranges(server: FakeServer) -> None:
    text = run(server, "policies").stdout
    assert "above 0" in text and "nats, vocabulary" in text and "no parameters" in text
    assert json.loads(run(server, "policies", "--json").stdout)["policies"][0]["name"] == "fixed"


def test_the_model_and_the_tokens_of_a_prompt(server: FakeServer) -> None:
    assert "1,234,567" in run(server, "model").stdout
    assert json.loads(run(server, "model", "--json").stdout)["name"] == "fake"
    assert run(server, "tokens", "def ").stdout == "4\n"
    assert json.loads(run(server, "tokens", "hi", "--json").stdout)["token_ids"] == [104, 105]


def test_help_tells_the_exit_status_and_every_flag_has_help() -> None:
    assert "130 interrupted" in CliRunner().invoke(cli.main, ["--help"]).stdout
    for command in cli.main.commands.values():
        assert command.help
        assert all(option.help for option in command.params if isinstance(option, click.Option))
