"""The CPU sampler: the right distribution, whatever the shape, the wiring, the batch split or the thread count."""

import pytest
import torch
from conftest import TOLERANCE, pixelcnn_params
from hypothesis import given, settings
from hypothesis import strategies as st

from vlae_fast import native, reference
from vlae_fast.config import PixelCNNSpec

R4 = PixelCNNSpec(block_convs=2)


@pytest.fixture(autouse=True, scope="module")
def _new_memory_is_nan():
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns: a pixel left out would show
    yield
    torch.use_deterministic_algorithms(False)


def arguments(N, H, W, K=4, kept=None, **sizes):
    """Context, params, uniforms and given; a share `kept` of the pixels is given (None: no tensor)."""
    params = pixelcnn_params(K=K, **sizes)
    context, uniforms = torch.randn(N, K, H, W), torch.rand(N, H, W)
    mask = (
        None
        if kept is None
        else torch.where(torch.rand(N, H, W) < kept, torch.rand(N, H, W).round(), -1).to(torch.int8)
    )
    return context, params, uniforms, mask


def draw(context, params, uniforms, mask=None, spec=PixelCNNSpec(), temperature=1.0):
    after = spec.pointwise_positions(len(params.pointwise_weight), len(params.hidden_gain))
    wiring = (spec.residual_scale, spec.block_convs, list(after), spec.visible_stride)
    return native.pixelcnn_sample(context, list(params), uniforms, *wiring, temperature, mask)


def check(context, params, uniforms, mask=None, spec=PixelCNNSpec(), temperature=1.0):
    """Draws, and compares every pixel with the float64 logits of the image that was drawn; ties may go either way."""
    x = draw(context, params, uniforms, mask, spec, temperature)
    assert ((x == 0) | (x == 1)).all()
    doubles = reference.PixelCNNParams(*(p.double() for p in params))
    context = context.double() if context.shape[1] else None
    logits = reference.pixelcnn_logits(x.double(), context, doubles, spec)
    p = torch.sigmoid(logits / temperature)[:, 0]
    expected = (uniforms < p).to(x.dtype)
    free = (uniforms - p).abs() >= TOLERANCE["tie"]
    if mask is not None:
        expected = torch.where(mask < 0, expected, mask.to(x.dtype))
        free |= mask >= 0
    wrong = free & (x[:, 0] != expected)
    assert not wrong.any(), f"{int(wrong.sum())} of {wrong.numel()} pixels, the first at {wrong.nonzero()[0].tolist()}"


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 3), (29, 3), (17, 23), (28, 28), (35, 5), (4, 70)])
@pytest.mark.parametrize("N", [0, 1, 3, 17, 33])
def test_sizes(N, size):
    check(*arguments(N, *size, L=3, P=2))


def test_large_batch():
    check(*arguments(257, 9, 11, L=2, P=1))


@pytest.mark.parametrize("C", [1, 7, 12, 16, 20, 33])
@pytest.mark.parametrize("K", [0, 1, 4])
def test_channels(C, K):
    check(*arguments(3, 11, 10, C=C, K=K, L=2, P=1))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("L", "P", "spec"),
    [
        (0, 0, PixelCNNSpec()),
        (1, 0, PixelCNNSpec(residual_scale=0.5)),
        (5, 4, PixelCNNSpec()),
        (5, 4, PixelCNNSpec(visible_stride=2)),
        (6, 4, PixelCNNSpec(block_convs=2, pointwise_after=(0, 0, 1, 1), residual_scale=0.7)),
        (12, 4, R4),
        (13, 8, PixelCNNSpec(pointwise_after=(12, 0, 3, 3, 0, 7, 12, 1), visible_stride=3)),
    ],
)
def test_wirings(L, P, spec, tied):
    check(*arguments(5, 14, 13, L=L, P=P, S=1 if tied or not L else L), spec=spec)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("kept", [0.0, 0.5, 1.0])
def test_given_and_temperature(kept, temperature):
    check(*arguments(18, 12, 13, L=2, P=1, kept=kept), temperature=temperature)


@pytest.mark.parametrize(("H", "W"), [(28, 28), (5, 40)])
def test_same_bits_for_any_split(H, W):
    context, params, uniforms, mask = arguments(70, H, W, L=5, P=4, kept=0.1)
    whole = draw(context, params, uniforms, mask)
    for n in (1, 2, 5, 16, 31, 33):
        part = slice(70 - n, 70)
        assert torch.equal(draw(context[part], params, uniforms[part], mask[part]), whole[part])


@pytest.mark.parametrize("threads", [2, 3])
def test_same_bits_for_any_thread_count(threads):
    before = torch.get_num_threads()
    case = arguments(37, 20, 20, L=5, P=4)
    try:
        torch.set_num_threads(1)
        one = draw(*case)
        torch.set_num_threads(threads)
        assert torch.equal(draw(*case), one)
    finally:
        torch.set_num_threads(before)


def test_extreme_logits():
    """Saturated probabilities are 0 and 1, and a given pixel is kept even where the network overflows."""
    context, params, uniforms, mask = arguments(4, 6, 7, kept=0.5, L=2, P=1, scale=50.0)
    check(context, params, uniforms, mask)
    broken = params._replace(output_bias=torch.tensor([float("nan")]))
    kept = mask.clamp_min(0)
    assert torch.equal(draw(context, broken, uniforms, kept)[:, 0], kept.float())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_drawn_shapes(data):
    def integer(low, high):
        return data.draw(st.integers(low, high))

    block_convs = integer(1, 2)
    blocks = integer(0, 4)
    L, P = blocks * block_convs, integer(0, 3) if blocks else 0
    spec = PixelCNNSpec(
        residual_scale=0.8,
        block_convs=block_convs,
        pointwise_after=tuple(integer(0, blocks - 1) for _ in range(P)),
        visible_stride=integer(1, 3),
    )
    sizes = {
        "K": integer(0, 5),
        "C": integer(1, 26),
        "L": L,
        "P": P,
        "S": data.draw(st.sampled_from([1, L])) if L else 1,
    }
    case = arguments(
        integer(0, 40), integer(1, 20), integer(1, 20), kept=data.draw(st.sampled_from([None, 0.3])), **sizes
    )
    check(*case, spec=spec, temperature=data.draw(st.sampled_from([0.5, 1.0, 2.0])))
