"""A server compiles its forward and sampler at start, where it can."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.compiler import needs_compiler
from tests.whole.conftest import ROOT, process
from tests.whole.runs import POLICIES, PROMPT, bits, run
from thermostat import Client


@needs_compiler
def test_a_compiled_server_gives_a_row_the_same_bits_alone_and_in_company(tmp_path):
    log = tmp_path / "log"
    with process(log=log) as (_, address), Client(address) as client:

        def stream(policy):
            return bits(run(client.generate(PROMPT, policy=policy, seed=7, max_output_tokens=24, ignore_eos=True))[1])

        policies = list(POLICIES.values())
        with ThreadPoolExecutor(len(policies)) as pool:
            together = list(pool.map(stream, policies))
        assert [len(found) for found in together] == [24] * len(policies)
        assert [stream(policy) for policy in policies] == together
    assert "forward: compiled" in log.read_text()


def test_nothing_is_compiled_where_there_is_no_compiler_or_nobody_wants_it(tmp_path):
    log, without = tmp_path / "log", {"CXX": "/nonexistent", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    for arguments, variables, warned in ((), without, True), (("--no-compile",), {}, False):
        with process(*arguments, log=log, **variables) as (_, address), Client(address) as client:
            assert len(run(client.generate(PROMPT, max_output_tokens=3, ignore_eos=True))[1]) == 3
        assert "forward: lean" in log.read_text()
        assert ("nothing is compiled" in log.read_text()) == warned


def test_a_server_that_must_and_cannot_compile_says_so_and_ends(tmp_path):
    variables = {"CXX": "/nonexistent", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "server", "--port", "0", "--compile"]
    ended = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | variables, timeout=120, check=False
    )
    assert ended.returncode == 1
    assert "it cannot be compiled, as --compile wants" in ended.stderr.splitlines()[-1]
    assert "compiler" in ended.stderr.splitlines()[-1]
