"""C++ as machine code for this processor, built by torch, which has the vectors that it is written with."""

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class CannotCompile(Exception):
    """There is no compiler, or it failed; the message says what."""


def build(source: Path, functions: Mapping[str, Sequence[Any]]) -> ctypes.CDLL:
    """A source file as a library, with the types of what its functions take; they return nothing unless told.

    It takes some seconds once, as torch keeps on disk what it has compiled. CannotCompile if there is no C++ compiler
    or it fails.
    """
    try:
        # Imported here: it takes seconds, and torch promises nothing of it.
        from torch._inductor.codecache import CppCodeCache

        library: ctypes.CDLL = CppCodeCache.load(source.read_text())
    except Exception as fault:  # the compiler raises many kinds, or has gone
        # Of a C++ compiler's pages, most of them warnings of torch's own headers, the line that counts.
        told = next((line for line in str(fault).splitlines() if "error: " in line), fault)
        raise CannotCompile(f"{type(fault).__name__}: {told}") from fault
    for name, arguments in functions.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    return library
