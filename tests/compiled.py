"""Compiles Triton kernels for an H100, which needs no GPU: the interpreter knows no types, a compiler does."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
_PROGRAM = """
from multiprocessing import get_context
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

jobs = []

def compile(kernel, constants, kinds, otherwise):
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    kinds = {name: kinds.get(name, otherwise) for name in kernel.arg_names}
    jobs.append(ASTSource(kernel, kinds | dict.fromkeys(constants, "constexpr"), constants))

def done(number):
    return "cubin" in triton.compile(jobs[number], target=GPUTarget("cuda", 90, 32)).asm
"""
_END = """
with get_context("fork").Pool(2) as pool:  # forked, so that it has the jobs
    assert jobs and all(pool.map(done, range(len(jobs)), chunksize=1))
"""


def assert_compile(program: str, cache: Path) -> None:
    """Run a program that calls `compile(kernel, constants, kinds of arguments, kind of the others)`, and compile."""
    environment = {"PATH": os.defpath, "TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", _PROGRAM + program + _END]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr


class Launches:
    """In place of interpreted kernels of a module: they run, and what they were launched with is kept."""

    def __init__(self, patch: Any, module: ModuleType, *names: str) -> None:
        self._program = f"from {module.__name__} import {', '.join(names)}\n"
        self._seen: set[str] = set()
        for name in names:
            patch.setattr(module, name, _Watched(name, getattr(module, name), self._seen))

    def assert_compile(self, cache: Path) -> None:
        """Compile every kernel for the types of arguments that it was launched with, of which the interpreter sees
        nothing."""
        assert self._seen
        assert_compile(self._program + "\n".join(sorted(self._seen)), cache)


class _Watched:
    def __init__(self, name: str, kernel: Any, seen: set[str]) -> None:
        self._name, self._kernel, self._seen = name, kernel, seen

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*arguments: Any, **constants: Any) -> None:
            kinds = {name: _kind(value) for name, value in zip(self._kernel.arg_names, arguments, strict=False)}
            fixed = {name: value for name, value in constants.items() if name in self._kernel.arg_names}
            self._seen.add(f"compile({self._name}, {fixed}, {kinds}, None)")
            self._kernel[grid](*arguments, **constants)

        return launch


_KINDS = {torch.float64: "fp64", torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
_KINDS |= {torch.int64: "i64", torch.int32: "i32", torch.int8: "i8", torch.bool: "i1"}


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return "*" + _KINDS[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"
