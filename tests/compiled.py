"""Compiles Triton kernels for an H100, which needs no GPU: the interpreter knows no types, a compiler does."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
_PROGRAM = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

def compiled(kernel, constants, kinds, otherwise):
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    kinds = {name: kinds.get(name, otherwise) for name in kernel.arg_names}
    source = ASTSource(kernel, kinds | dict.fromkeys(constants, "constexpr"), constants)
    return "cubin" in triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm
"""


def assert_compile(program: str, cache: Path) -> None:
    """Run a program that has `compiled(kernel, constants, kinds of arguments, kind of the others)`."""
    environment = {"PATH": os.defpath, "TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", _PROGRAM + program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
