"""C++ as machine code for this processor, built by torch, which has the vectors that it is written with."""

import ctypes
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

THREADS = Path(__file__).with_name("threads.h")
"""What every source may use."""


class CannotCompile(Exception):
    """There is no compiler, or it failed; the message says what."""


def build(source: Path, functions: Mapping[str, Sequence[Any]]) -> ctypes.CDLL:
    """A source file, after `THREADS`, as a library, with the types of what its functions take; they return nothing
    unless told.

    It takes some seconds once, as torch keeps on disk what it has compiled. CannotCompile if there is no C++ compiler,
    it fails, or others could put machine code of theirs where it is kept.
    """
    try:
        # Imported here: it takes seconds, and torch promises nothing of it.
        from torch._inductor.codecache import CppCodeCache, cache_dir

        _must_be_ours(Path(cache_dir()))
        text = f"{THREADS.read_text()}{source.read_text()}// {_processor()}\n"
        library: ctypes.CDLL = CppCodeCache.load(text)
    except Exception as fault:  # the compiler raises many kinds, or has gone
        # Of a C++ compiler's pages, most of them warnings of torch's own headers, the line that counts.
        told = next((line for line in str(fault).splitlines() if "error: " in line), fault)
        raise CannotCompile(f"{type(fault).__name__}: {told}") from fault
    for name, arguments in functions.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    return library


def _processor() -> str:
    """What this processor can do. Torch takes what it has kept for the same source and flags; of these -march=native
    is something else on another machine, which a folder or a virtual machine may have moved to."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _must_be_ours(folder: Path) -> None:
    """By default it has a name that anybody can foresee, in a folder that anybody can write to."""
    found = folder.stat()
    if found.st_uid not in (os.getuid(), 0) or found.st_mode & stat.S_IWOTH:
        raise PermissionError(f"others can write to {folder}; TORCHINDUCTOR_CACHE_DIR names another folder")
