"""The GPU's kernels, run by Triton's interpreter on the CPU.

Triton looks at TRITON_INTERPRET when its functions are defined: to be imported before anything else imports them.
"""

import os

before = os.environ.get("TRITON_INTERPRET")
os.environ["TRITON_INTERPRET"] = "1"
try:
    import triton.experimental.gluon  # noqa: F401 - else it is first imported when a kernel runs

    from adaptive.gpu import fused
finally:
    if before is None:
        del os.environ["TRITON_INTERPRET"]

__all__ = ["fused"]
