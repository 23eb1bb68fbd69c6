"""The compiled CPU module: its instruction sets, its memory, and all bodies under the ops' names."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from vlae_fast import _native
from vlae_fast.checks import choice
from vlae_fast.ops.bernoulli.cpu import bernoulli_log_prob, bernoulli_log_prob_backward
from vlae_fast.ops.dense.cpu import dense, dense_backward
from vlae_fast.ops.exp.cpu import exp
from vlae_fast.ops.made.cpu import (
    made_flow_forward,
    made_flow_forward_backward,
    made_flow_inverse,
    made_flow_inverse_backward,
    made_forward,
    made_forward_backward,
    made_inverse,
    made_inverse_backward,
)
from vlae_fast.ops.masked_conv.cpu import masked_conv3x3, masked_conv3x3_backward
from vlae_fast.ops.pixelcnn.cpu import (
    pixelcnn_log_prob,
    pixelcnn_log_prob_backward,
    pixelcnn_logits,
    pixelcnn_logits_backward,
    pixelcnn_sample,
)
from vlae_fast.ops.resnet.cpu import resnet, resnet_backward
from vlae_fast.ops.weight_norm.cpu import (
    weight_norm,
    weight_norm_backward,
    weight_norms,
    weight_norms_backward,
)

__all__ = [
    "bernoulli_log_prob",
    "bernoulli_log_prob_backward",
    "dense",
    "dense_backward",
    "exp",
    "isa",
    "keep_freed_memory",
    "made_flow_forward",
    "made_flow_forward_backward",
    "made_flow_inverse",
    "made_flow_inverse_backward",
    "made_forward",
    "made_forward_backward",
    "made_inverse",
    "made_inverse_backward",
    "masked_conv3x3",
    "masked_conv3x3_backward",
    "pixelcnn_log_prob",
    "pixelcnn_log_prob_backward",
    "pixelcnn_logits",
    "pixelcnn_logits_backward",
    "pixelcnn_sample",
    "plain_arithmetic",
    "resnet",
    "resnet_backward",
    "usable_isas",
    "use_isa",
    "weight_norm",
    "weight_norm_backward",
    "weight_norms",
    "weight_norms_backward",
]


def isa() -> str:
    """Name of the instruction set that the compiled bodies use here: avx512, avx2 or baseline.

    Raises RuntimeError, as every call of such a body then does, where VLAE_FAST_ISA names one that does not run here.
    """
    return _native.isa()


def usable_isas() -> list[str]:
    """Names of all that this processor can use, best first; the environment variable VLAE_FAST_ISA forces one."""
    return _native.usable_isas()


@contextmanager
def use_isa(name: str) -> Iterator[None]:
    """Within it the compiled bodies use another of `usable_isas`, in every thread: to compare and to test them."""
    names, before = usable_isas(), isa()
    _native.use_isa(names.index(choice("name", name, names)))
    try:
        yield
    finally:
        _native.use_isa(names.index(before))


@contextmanager
def plain_arithmetic() -> Iterator[None]:
    """Within it this thread's bodies round every product before they add it: the same bits on every processor.

    Only what draws and encodes is compiled so; calls of the rest fail. Slower by a half or so.
    """
    before = _native.use_plain(True)
    try:
        yield
    finally:
        _native.use_plain(before)


def keep_freed_memory() -> None:
    """Tells the C library (glibc) to keep freed memory for the next step instead of giving it back each time.

    Worth a twentieth of a training step's time; for processes of our own, not for a library to decide. Blocks of 32 MiB
    and more, as only large images need them, are given back: else they would lie beside one another.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: 0)
        for option, size in ((-1, 1 << 30), (-3, 1 << 25)):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            mallopt(option, size)
