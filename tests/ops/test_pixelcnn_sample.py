"""Every body of the sampler: the right distribution, whatever the shape, the wiring, the batch split, the threads.

An interpreter takes the same time for an operation on one lane and on a hundred, so a case is one program if it can.
"""

import pytest
import torch
from bodies import ISAS, TRITON, every, every_case
from conftest import TOLERANCE, pixelcnn_params, with_threads
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_cases import wiring_of

from vlae_fast import PixelCNNParams, PixelCNNSpec, native, reference
from vlae_fast.kernels import pixelcnn_sample
from vlae_fast.kernels.pixelcnn_sample import TILES, Tile

BODIES = (*ISAS, TRITON)
WIDE = Tile(1, images=8, most_rows=4, groups=1, channels=12, lanes_a_thread=2)


@pytest.fixture(autouse=True)
def tile(request, monkeypatch):
    """The one entry of the table of Triton's launches; None: the table as it is."""
    if (chosen := getattr(request, "param", WIDE)) is not None:
        monkeypatch.setattr(pixelcnn_sample, "TILES", (chosen,))


def tensors(N, H, W, K=2, C=3, L=2, P=1, kept=None, **sizes):
    """Context, params, uniforms and given; a share `kept` of the pixels is given (None: no tensor)."""
    params = list(pixelcnn_params(C=C, K=K, L=L, P=P, **sizes))
    context, uniforms = torch.randn(N, K, H, W), torch.rand(N, H, W)
    if kept is None:
        return context, params, uniforms, None
    given = torch.where(torch.rand(N, H, W) < kept, torch.rand(N, H, W).round(), -1)
    return context, params, uniforms, given.to(torch.int8)


def draw(body, context, params, uniforms, mask=None, spec=PixelCNNSpec(), temperature=1.0):
    return body.pixelcnn_sample(context, params, uniforms, *wiring_of(spec, params), temperature, mask)


def check(body, context, params, uniforms, mask=None, spec=PixelCNNSpec(), temperature=1.0):
    """Draws, and compares every pixel with the float64 logits of the image that was drawn; ties may go either way."""
    x = draw(body, *body.put((context, params, uniforms, mask)), spec, temperature).cpu()
    assert ((x == 0) | (x == 1)).all()
    doubles = PixelCNNParams(*(p.double() for p in params))
    logits = reference.pixelcnn_logits(x.double(), context.double() if context.shape[1] else None, doubles, spec)
    p = torch.sigmoid(logits / temperature)[:, 0]
    expected = (uniforms < p).to(x.dtype)
    free = (uniforms - p).abs() >= TOLERANCE["tie"]
    if mask is not None:
        expected = torch.where(mask < 0, expected, mask.to(x.dtype))
        free |= mask >= 0
    wrong = free & (x[:, 0] != expected)
    assert not wrong.any(), f"{int(wrong.sum())} of {wrong.numel()} pixels, the first at {wrong.nonzero()[0].tolist()}"


PAPER = {"C": 12, "K": 4}
SIZES = {str(s): s for s in [(0, 3, 3), (1, 1, 1), (3, 1, 6), (9, 6, 1), (2, 2, 3), (5, 9, 4), (8, 5, 7), (3, 0, 4)]}
LARGE_SIZES = {
    str((N, *size)): (N, *size, 12, 4, 3, 2)
    for N in (0, 1, 3, 17, 33)
    for size in [(1, 1), (1, 9), (9, 1), (2, 3), (29, 3), (17, 23), (28, 28), (35, 5), (4, 70)]
} | {"large batch": (257, 9, 11, 12, 4, 2, 1)}


@every_case(SIZES, *BODIES, large={f"{name} of the paper's channels": size for name, size in LARGE_SIZES.items()})
def test_sizes(body, case):
    N, H, W, *rest = case
    check(body, *tensors(N, H, W, **dict(zip("CKLP", rest, strict=False))))


CHANNELS = {f"C={C} K={K}": (7, 3, 4, C, K, 1, 1) for C, K in [(1, 0), (12, 4), (16, 1), (19, 3), (33, 0)]}
MORE_CHANNELS = {f"C={C} K={K}, 3": (3, 11, 10, C, K, 2, 1) for C in (1, 7, 12, 16, 20, 33) for K in (0, 1, 4)}


@every_case(CHANNELS, *BODIES, large=MORE_CHANNELS)
def test_channels(body, case):
    N, H, W, C, K, L, P = case
    check(body, *tensors(N, H, W, C=C, K=K, L=L, P=P))


WIRINGS = {  # L, P, spec
    "no layers": (0, 0, PixelCNNSpec()),
    "one layer": (1, 0, PixelCNNSpec(residual_scale=0.5)),
    "blocks of two": (4, 2, PixelCNNSpec(0.7, 2, (0, 0), 2)),
    "out of order": (3, 4, PixelCNNSpec(pointwise_after=(2, 0, 0, 2), visible_stride=3)),
}
LARGE_WIRINGS = {
    "R1": (5, 4, PixelCNNSpec()),
    "R1, every other pixel": (5, 4, PixelCNNSpec(visible_stride=2)),
    "R2": (6, 4, PixelCNNSpec(0.7, 2, (0, 0, 1, 1))),
    "R4": (12, 4, PixelCNNSpec(block_convs=2)),
    "13 layers": (13, 8, PixelCNNSpec(pointwise_after=(12, 0, 3, 3, 0, 7, 12, 1), visible_stride=3)),
}


@every_case(WIRINGS, *BODIES, large=LARGE_WIRINGS)
@pytest.mark.parametrize("tied", [True, False])
def test_wirings(body, case, tied):
    L, P, spec = case
    check(body, *tensors(6, 4, 5, L=L, P=P, S=1 if tied or not L else L), spec=spec)


@every_case(WIRINGS | LARGE_WIRINGS, *ISAS)
@pytest.mark.parametrize("tied", [True, False])
def test_wirings_at_the_papers_channels(body, case, tied):
    L, P, spec = case
    check(body, *tensors(5, 14, 13, **PAPER, L=L, P=P, S=1 if tied or not L else L), spec=spec)


GIVEN = {f"{kept} at {t}": (8, 4, 5, {}, kept, t) for kept, t in [(0.0, 0.3), (0.5, 1.0), (1.0, 5.0)]}
MORE_GIVEN = {
    f"{kept} at {t} of the paper's": (18, 12, 13, PAPER, kept, t) for kept in (0.0, 0.5, 1.0) for t in (0.3, 1.0, 5.0)
}


@every_case(GIVEN, *BODIES, large=MORE_GIVEN)
def test_given_and_temperature(body, case):
    N, H, W, channels, kept, temperature = case
    check(body, *tensors(N, H, W, kept=kept, **channels), temperature=temperature)


@every(*BODIES)
def test_extreme_logits(body):
    """Saturated probabilities are 0 and 1, and a given pixel is kept even where the network overflows."""
    context, params, uniforms, mask = tensors(4, 4, 5, kept=0.5, scale=50.0, **PAPER if body.name in ISAS else {})
    check(body, context, params, uniforms, mask)
    params[-1].fill_(torch.nan)
    kept = mask.clamp_min(0)  # all are given: the CPU's body looks at what it drew
    x = draw(body, *body.put((context, params, uniforms, kept))).cpu()
    assert torch.equal(x[:, 0], kept.float())
    if body.name not in ISAS:
        x = draw(body, *body.put((context, params, uniforms, mask)))[:, 0].cpu()
        assert torch.equal(x[mask >= 0], mask[mask >= 0].float())


@every(TRITON)
@pytest.mark.parametrize(
    "tile", [TILES[0]._replace(images=2), *(t._replace(least_batch=1) for t in TILES)], indirect=True
)
def test_every_tile_draws_what_the_cpu_draws(body, tile):
    case = tensors(3, 5, 4, kept=0.1)
    assert torch.equal(draw(body, *body.put(case)).cpu(), draw(native, *case))


def same_bits(body, *case):
    context, params, uniforms, mask = body.put(tensors(*case, kept=0.1))
    N, whole = len(context), draw(body, context, params, uniforms, mask)
    for part in [slice(N - n, N) for n in (1, 2, 5, 16, 31, 33)] if N > 9 else [slice(3, 4), slice(1, 9)]:
        assert torch.equal(draw(body, context[part], params, uniforms[part], mask[part]), whole[part])
    for _ in with_threads(body.threads):
        assert torch.equal(draw(body, context, params, uniforms, mask), whole)


@every(*BODIES)
def test_same_bits_for_any_split(body):
    same_bits(body, 9, 3, 4)


@every(*ISAS)
@pytest.mark.parametrize(("N", "H", "W"), [(70, 28, 28), (70, 5, 40), (37, 20, 20)])
def test_same_bits_for_any_split_and_threads(body, N, H, W):
    same_bits(body, N, H, W, 4, 12, 5, 4)


@every(*BODIES)
@pytest.mark.parametrize("tile", [None], indirect=True)
def test_the_tuned_case(body, tile):
    check(body, *tensors(1, 28, 28, **PAPER, L=5, P=4))


@every(*ISAS)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_size(body, data):
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
    case = tensors(
        integer(0, 40), integer(1, 20), integer(1, 20), kept=data.draw(st.sampled_from([None, 0.3])), **sizes
    )
    check(body, *case, spec=spec, temperature=data.draw(st.sampled_from([0.5, 1.0, 2.0])))
