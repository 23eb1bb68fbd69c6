"""How each kernel is launched: choices for a number of channels, for each architecture.

Chosen by counting registers and instructions of the compiled code; `benchmarks/tune_kernels.py` measures them anew.
"""

from typing import NamedTuple

__all__ = ["PRECISION", "TABLE", "Config", "choose"]


PRECISION = "tf32x3"
"""Of the matrix products that sum a convolution's weight gradients, as in `planes.correlate`."""


class Config(NamedTuple):
    """Launch options of one kernel."""

    block: int
    """Positions that a program holds at once."""
    num_warps: int
    programs: int
    """Programs for each multiprocessor; where a program takes block after block."""


Rows = dict[int, Config]
"""The choice for up to so many channels; 0: for more than any other row says."""

_PIXELCNN: Rows = {12: Config(1024, 8, 1), 24: Config(512, 8, 1), 0: Config(256, 8, 1)}
_PIXELCNN_WEIGHTS: Rows = {0: Config(32, 4, 4)}
_CONVOLUTION: Rows = {0: Config(512, 4, 1)}
_CONVOLUTION_WEIGHT: Rows = {0: Config(32, 4, 4)}

TABLE: dict[str, dict[int, Rows]] = {
    "pixelcnn": {80: _PIXELCNN, 90: _PIXELCNN, 100: _PIXELCNN},
    "pixelcnn_weights": {80: _PIXELCNN_WEIGHTS, 90: _PIXELCNN_WEIGHTS, 100: _PIXELCNN_WEIGHTS},
    "masked_conv3x3": {80: _CONVOLUTION, 90: _CONVOLUTION, 100: _CONVOLUTION},
    "masked_conv3x3_weight": {80: _CONVOLUTION_WEIGHT, 90: _CONVOLUTION_WEIGHT, 100: _CONVOLUTION_WEIGHT},
}
"""Kernel -> architecture (the nearest below counts) -> channels -> choice."""


def choose(kernel: str, channels: int, architecture: int = 90) -> Config:
    """The launch options of a kernel for so many channels on an architecture, 90 for sm_90."""
    architectures = TABLE[kernel]
    rows = architectures[max((a for a in architectures if a <= architecture), default=min(architectures))]
    return rows[min((n for n in rows if n >= channels), default=0)]
