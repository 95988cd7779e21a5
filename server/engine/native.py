"""native.cpp in Python: its structures, each with the same name and fields, and its functions. It needs a C++
compiler."""

import ctypes
from ctypes import c_float, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import torch

from adaptive.cpu.library import build

KINDS = (torch.float32, torch.bfloat16, torch.float16)
"""What weights, and keys and values, may be."""


class Linear(ctypes.Structure):
    _fields_ = (("panels", c_void_p), ("bias", c_void_p), ("inputs", c_int64), ("count", c_int64), ("kind", c_int64))


class Norm(ctypes.Structure):
    _fields_ = (("weight", c_void_p), ("size", c_int64), ("epsilon", c_float))


class Attention(ctypes.Structure):
    _fields_ = (
        *((name, Norm) for name in ("query", "key")),
        *((name, c_int64) for name in ("layer", "kv_heads", "group", "dim", "window", "kind")),
        ("scale", c_float),
    )


class Layer(ctypes.Structure):
    _fields_ = (
        *((name, Norm) for name in ("before", "between")),
        *((name, Linear) for name in ("qkv", "out", "gate_up", "down")),
        ("attention", Attention),
    )


class Step(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("x", "normed", "more", "qkv", "mixed", "both", "inner")),
        *((name, c_void_p) for name in ("cosines", "sines", "segments")),
        *((name, c_int64) for name in ("count", "rows")),
        ("threads", c_int),
    )


_SIGNATURES: dict[str, list[Any]] = {
    "linear": [ctypes.POINTER(Linear), c_void_p, c_void_p, c_int64, c_int],
    "norm": [ctypes.POINTER(Norm), c_void_p, c_void_p, c_int64, c_int],
    "attend": [ctypes.POINTER(Layer), ctypes.POINTER(Step)],
    "layers": [ctypes.POINTER(Layer), c_int64, ctypes.POINTER(Step)],
}


@cache
def library() -> Any:
    """The functions. CannotCompile as `adaptive.cpu.library.build`."""
    made = build(Path(__file__).with_suffix(".cpp"), _SIGNATURES)
    made.panel.restype = c_int64
    return made


def panel() -> int:
    """Outputs of a linear layer whose weights lie together."""
    return int(library().panel())
