"""The Triton kernels' offsets at sizes that no test can compute: images and batches of more than 2^31 floats.

The launchers get tensors without memory, and Triton's interpreter runs the first and the last program and, of long
loops, the first and the last turn. Every address that is read or written must lie in the tensor it was made from, and
no integer may overflow; a few numbers alone are really stored.
"""

import builtins
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import needs_interpreter, pixelcnn_params
from triton import language as tl
from triton.runtime import interpreter

from vlae_fast import gpu
from vlae_fast.config import PixelCNNSpec
from vlae_fast.kernels import masked_conv, pixelcnn, pixelcnn_backward, pixelcnn_sample, planes
from vlae_fast.ops.masked_conv import gpu as masked_conv_gpu
from vlae_fast.ops.pixelcnn import gpu as pixelcnn_gpu
from vlae_fast.ops.pixelcnn.wiring import wiring as wiring_of

pytestmark = needs_interpreter
LONG = 64
"""Turns of a loop that are all run."""


def first_and_last(*bounds):
    """A loop's numbers, of the type that the compiler gives them: that of its widest bound."""
    turns = builtins.range(*bounds)
    if len(turns) > LONG:
        turns = [turns[0], turns[-1]]
    wide = [b for b in bounds if isinstance(b, tl.tensor) and b.dtype == tl.int64]
    return [wide[0] * 0 + turn for turn in turns] if wide else turns


class Address:
    """A tensor for a kernel, somewhere in a large address space."""

    def __init__(self, tensor, start):
        self.dtype, self.start, self.end = tensor.dtype, start, start + tensor.numel() * tensor.element_size()

    def data_ptr(self):
        return self.start


class Memory:
    """What loads and stores of a launch go to: checked, and kept where they are of one number."""

    def __init__(self):
        self.addresses, self.kept, self.reached = [], {}, 0

    def place(self, args, kwargs):
        def placed(value):
            if not isinstance(value, torch.Tensor):
                return value
            self.addresses.append(Address(value, (len(self.addresses) + 1) << 48))
            return self.addresses[-1]

        return [placed(a) for a in args], {name: placed(a) for name, a in kwargs.items()}

    def check(self, pointers, mask, size):
        at = pointers[np.broadcast_to(mask, pointers.shape).astype(bool)].astype(np.int64)
        if at.size:
            first, last = int(at.min()), int(at.max())
            address = self.addresses[(first >> 48) - 1]
            assert address.start <= first <= last + size <= address.end, f"outside by {first - address.start}"
            self.reached = max(self.reached, (last - address.start) // size)

    def load(self, pointers, mask, other, dtype):
        self.check(pointers, mask, dtype.itemsize)
        known = self.kept.get(int(pointers.flat[0]), 0) if pointers.size == 1 else 0
        return np.where(mask, dtype.type(known), other).astype(dtype)

    def store(self, pointers, values, mask):
        self.check(pointers, mask, values.dtype.itemsize)
        if pointers.size == 1:
            self.kept[int(pointers.flat[0])] = values.flat[0]


@pytest.fixture
def memory(monkeypatch):
    memory = Memory()
    for module in (interpreter, masked_conv, pixelcnn, pixelcnn_backward, pixelcnn_sample, planes):
        monkeypatch.setattr(module, "range", first_and_last, raising=False)
    monkeypatch.setattr(interpreter, "_interpreter", memory)
    monkeypatch.setattr(interpreter.GridExecutor, "_init_args_hst", lambda self, *arguments: memory.place(*arguments))
    monkeypatch.setattr(interpreter.GridExecutor, "_restore_args_dev", lambda *arguments: None)
    builder = interpreter.interpreter_builder
    monkeypatch.setattr(builder, "options", replace(builder.options, debug=True))  # every overflow is an error
    return memory


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def stack(N, H, W, C, K, spec, **sizes):
    params = [p.to("meta") for p in pixelcnn_params(C=C, K=K, **sizes)]
    wiring = wiring_of(spec, params)
    return meta(N, 1, H, W), meta(N, K, H, W), params, wiring


def test_paper_at_3000_pixels_a_side_is_larger_than_int32():
    x, _, _, wiring = stack(1, 3000, 3000, 12, 4, PixelCNNSpec(1.0, 2), L=12, P=4, S=12)
    sizes = {"N": 1, "H": 3000, "W": 3000, "C": 12, "K": 4, "L": 12, "P": 4, "S": 12}
    call = pixelcnn_gpu._PixelCNN(False, x, sizes, *wiring)
    assert call.scratch.numel() > 2**31


LARGE = {  # N, H, W, sizes
    "one large image": (1, 9000, 8000, {"C": 2, "K": 1, "L": 16, "P": 1, "S": 16}),
    "many images": (1 << 24, 28, 28, {"C": 2, "K": 3, "L": 2, "P": 1}),
}


@pytest.mark.slow  # up to 18 layers, every operation of theirs interpreted and checked
@pytest.mark.parametrize("case", LARGE)
def test_pixelcnn(case, memory):
    N, H, W, sizes = LARGE[case]
    x, context, params, wiring = stack(N, H, W, spec=PixelCNNSpec(0.5, 2), **sizes)
    assert gpu.pixelcnn_log_prob(x, context, params, *wiring).shape == (N,)
    assert memory.reached > 2**31
    if N == 1:  # there is a launch for every few images
        gpu.pixelcnn_logits_backward(meta(*x.shape), x, context, params, *wiring)


@pytest.mark.slow
@pytest.mark.parametrize("case", LARGE)
def test_pixelcnn_sample(case, memory):
    N, H, W, sizes = LARGE[case]
    _, context, params, wiring = stack(N, H, W, spec=PixelCNNSpec(0.5, 2), **sizes)
    given = meta(N, H, W, dtype=torch.int8)
    assert gpu.pixelcnn_sample(context, params, meta(N, H, W), *wiring, 1.0, given).shape == (N, 1, H, W)
    assert N == 1 or memory.reached > 2**31  # one image's scratch is counted in int32


@pytest.mark.slow
@pytest.mark.parametrize(("N", "C", "K", "H", "W"), [(12, 3, 2, 9000, 9000), (1 << 20, 3, 2, 28, 28)])
def test_masked_conv3x3(N, C, K, H, W, memory, monkeypatch):
    monkeypatch.setattr(masked_conv_gpu, "resident_programs", lambda x, config: N * H * W)  # a block for each
    x, weight, channels, y = meta(N, C, H, W), meta(K, C, 3, 3), meta(K), meta(N, K, H, W)
    gpu.masked_conv3x3(x, weight, channels, channels, y, "B", True, 0.5)
    gpu.masked_conv3x3_backward(y, x, weight, channels, "B", True, 0.5)
    assert memory.reached > 2**31


def test_what_int32_cannot_count_is_refused():
    x, context, params, wiring = stack(1, 40_000, 40_000, 2, 1, PixelCNNSpec(), L=1, P=0)
    with pytest.raises(ValueError, match=r"too large for the GPU kernels: positions \d+, fewer than 2147483648 wanted"):
        gpu.pixelcnn_logits(x, context, params, *wiring)
    x, context, params, wiring = stack(1, 3, 1 << 23, 2, 1, PixelCNNSpec(), L=60, P=0)
    with pytest.raises(ValueError, match="too large for the GPU kernels: scratch"):
        gpu.pixelcnn_sample(context, params, x[:, 0], *wiring, 1.0, None)
    x = meta(1, 1, 40_000, 40_000)
    with pytest.raises(ValueError, match="too large for the GPU kernels: pixels"):
        gpu.masked_conv3x3(x, meta(1, 1, 3, 3), meta(1), None, None, "A", False, 1.0)
    D, M = 1 << 26, 1
    flow = [meta(1, M, D), meta(1, M), meta(1, M, M), meta(1, M), meta(1, D, M), meta(1, D)]
    with pytest.raises(ValueError, match="too large for the GPU kernels: units"):
        gpu.made_flow_inverse(meta(1, D), [*flow, meta(M, dtype=torch.int64)], None)
