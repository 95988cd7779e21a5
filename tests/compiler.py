"""Whether there is the C++ compiler that `--compile` asks for."""

import os
import shutil

import pytest

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="only --compile asks for a C++ compiler"
)
