"""The GPU's kernels, run by Triton's interpreter on the CPU.

Triton looks at TRITON_INTERPRET when a kernel is defined: nothing else may import ours before.
"""

from tests.conftest import interpreting

with interpreting():
    from adaptive.gpu import fused, replay
    from server.engine import decode, graphs
    from server.engine import fused as fused_step

__all__ = ["decode", "fused", "fused_step", "graphs", "replay"]
