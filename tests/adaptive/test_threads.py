"""Threads that compute together: each number is one's to do, exactly once, whoever else asks and whoever sleeps."""

import ctypes
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from adaptive.cpu.library import build
from tests.compiler import needs_compiler

pytestmark = needs_compiler
SOURCE = """
#include <vector>
#include <unistd.h>

// How many of `count` numbers were not done exactly once.
extern "C" void wrong(int threads, int64_t count, int64_t share, int64_t* out) {
  std::vector<int64_t> done(count);
  together.each(threads, count, [&](int64_t one) { done[one] += one + 1; }, share);
  for (int64_t one = 0; one < count; one++) *out += done[one] != one + 1;
}

// On how many threads numbers are done that take 20 ms each.
extern "C" void used(int threads, int64_t count, int64_t* out) {
  std::vector<std::thread::id> by(count);
  together.each(threads, count, [&](int64_t one) { by[one] = std::this_thread::get_id(), usleep(20000); }, 1);
  std::sort(by.begin(), by.end());
  *out = std::unique(by.begin(), by.end()) - by.begin();
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    source: Path = tmp_path_factory.mktemp("threads") / "some.cpp"
    source.write_text(SOURCE)
    integer, found = ctypes.c_int64, ctypes.POINTER(ctypes.c_int64)
    return build(source, {"wrong": [ctypes.c_int, integer, integer, found], "used": [ctypes.c_int, integer, found]})


def ask(function, *arguments):
    found = ctypes.c_int64()
    function(*arguments, found)
    return found.value


def test_every_number_is_done_once_by_several_callers_at_a_time(library):
    def caller(seed):
        return sum(ask(library.wrong, 1 + i % 4, (seed * i) % 70, i % 3) for i in range(3000))

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(caller, (7, 11, 13))) == [0, 0, 0]


def test_they_help_after_they_have_slept_too(library):
    for pause in (0, 0.05):
        time.sleep(pause)
        assert ask(library.used, 3, 6) >= 3
    assert ask(library.used, 1, 3) == 1


def test_a_process_that_is_forked_computes_without_them(library):
    assert ask(library.used, 3, 6) >= 3
    child = os.fork()
    if not child:
        signal.alarm(60)  # one that waited for them would wait for ever
        os._exit(ask(library.wrong, 3, 50, 0) or ask(library.used, 3, 4) - 1)
    assert os.waitpid(child, 0)[1] == 0
