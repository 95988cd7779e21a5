"""Whether there is a C++ compiler, for what is then machine code."""

import os
import shutil

import pytest

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="without a C++ compiler all is torch's operators"
)
