"""Triton has functions of its own that its interpreter needs interpreted: so it is imported here, before transformers
imports it."""

import contextlib
import os
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def interpreting() -> Iterator[None]:
    """What is imported here is interpreted; what a test starts is not."""
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        yield
    finally:
        del os.environ["TRITON_INTERPRET"]
        if before is not None:
            os.environ["TRITON_INTERPRET"] = before


with interpreting(), contextlib.suppress(ImportError):  # Triton is for Linux alone
    import triton
    import triton.experimental.gluon  # noqa: F401 - else it is first imported when a kernel runs

# A shell's background jobs ignore an interrupt, and so would the commands that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
