"""The Triton sampler under Triton's interpreter: the right distribution, and no access out of bounds.

The interpreter takes the same time for an operation on one lane and on a hundred, so a case is one program if it can.
"""

import pytest
import torch
from conftest import TOLERANCE, pixelcnn_params

from vlae_fast import gpu, native, reference
from vlae_fast.config import PixelCNNSpec
from vlae_fast.kernels import pixelcnn_sample
from vlae_fast.kernels.pixelcnn_sample import TILES, Tile

WIDE = Tile(1, images=8, most_rows=4, lanes_a_warp=16)
MARGIN = 64


@pytest.fixture
def guarded(monkeypatch):
    """All that the launcher allocates is NaN and stands between margins of NaN, which must be there afterwards."""
    memory, original, contiguous = [], torch.Tensor.new_empty, torch.Tensor.contiguous

    def new_empty(like, *shape, **options):
        if options:  # the interpreter's own
            return original(like, *shape, **options)
        tensor, whole = between_margins(torch.full(shape, torch.nan, dtype=like.dtype))
        memory.append(whole)
        return tensor

    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)
    monkeypatch.setattr(torch.Tensor, "contiguous", lambda t: between_margins(contiguous(t))[0])
    yield
    assert memory, "nothing was allocated"
    for whole in memory:
        assert whole[:MARGIN].isnan().all()
        assert whole[-MARGIN:].isnan().all()


def between_margins(tensor):
    """The tensor inside of larger memory, all else of which is NaN (1 for integers), and that memory."""
    fill = torch.nan if tensor.is_floating_point() else 1
    whole = torch.full((tensor.numel() + 2 * MARGIN,), fill, dtype=tensor.dtype)
    inside = whole[MARGIN : MARGIN + tensor.numel()].view(tensor.shape)
    inside.copy_(tensor)
    return inside, whole


def arguments(N, H, W, K=2, C=3, L=2, P=1, kept=None, **sizes):
    """Context, params, uniforms and given; a share `kept` of the pixels is given (None: no tensor)."""
    params = [between_margins(p)[0] for p in pixelcnn_params(C=C, K=K, L=L, P=P, **sizes)]
    context, uniforms = torch.randn(N, K, H, W), torch.rand(N, H, W)
    mask = None
    if kept is not None:
        mask = torch.where(torch.rand(N, H, W) < kept, torch.rand(N, H, W).round(), -1).to(torch.int8)
        mask = between_margins(mask)[0]
    return between_margins(context)[0], params, between_margins(uniforms)[0], mask


def draw(context, params, uniforms, mask=None, spec=PixelCNNSpec(), temperature=1.0, body=gpu):
    after = spec.pointwise_positions(len(params[6]), len(params[4]))
    wiring = (spec.residual_scale, spec.block_convs, list(after), spec.visible_stride)
    return body.pixelcnn_sample(context, params, uniforms, *wiring, temperature, mask)


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


@pytest.fixture
def tile(monkeypatch, request):
    """The one entry of the table."""
    monkeypatch.setattr(pixelcnn_sample, "TILES", (request.param,))


@pytest.mark.parametrize("tile", [WIDE], indirect=True)
@pytest.mark.parametrize(("N", "H", "W"), [(0, 3, 3), (1, 1, 1), (3, 1, 6), (9, 6, 1), (2, 2, 3), (5, 9, 4), (8, 5, 7)])
def test_sizes(guarded, tile, N, H, W):
    check(*arguments(N, H, W))


@pytest.mark.parametrize("tile", [WIDE], indirect=True)
@pytest.mark.parametrize(("C", "K"), [(1, 0), (12, 4), (16, 1), (19, 3), (33, 0)])
def test_channels(guarded, tile, C, K):
    check(*arguments(7, 3, 4, C=C, K=K, L=1, P=1))


@pytest.mark.parametrize("tile", [WIDE], indirect=True)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("L", "P", "spec"),
    [
        (0, 0, PixelCNNSpec()),
        (1, 0, PixelCNNSpec(residual_scale=0.5)),
        (4, 2, PixelCNNSpec(block_convs=2, pointwise_after=(0, 0), residual_scale=0.7, visible_stride=2)),
        (3, 4, PixelCNNSpec(pointwise_after=(2, 0, 0, 2), visible_stride=3)),
    ],
)
def test_wirings(guarded, tile, L, P, spec, tied):
    check(*arguments(6, 4, 5, L=L, P=P, S=1 if tied or not L else L), spec=spec)


@pytest.mark.parametrize("tile", [WIDE], indirect=True)
@pytest.mark.parametrize(("kept", "temperature"), [(0.0, 0.3), (0.5, 1.0), (1.0, 5.0)])
def test_given_and_temperature(guarded, tile, kept, temperature):
    check(*arguments(8, 4, 5, kept=kept), temperature=temperature)


@pytest.mark.parametrize("tile", [WIDE], indirect=True)
def test_extreme_logits(tile):
    """Saturated probabilities are 0 and 1, and a given pixel is kept even where the network overflows."""
    context, params, uniforms, mask = arguments(4, 4, 5, kept=0.5, scale=50.0)
    check(context, params, uniforms, mask)
    params[-1].fill_(torch.nan)
    x = draw(context, params, uniforms, mask)[:, 0]
    assert torch.equal(x[mask >= 0], mask[mask >= 0].float())


@pytest.mark.parametrize(
    "tile", [TILES[0]._replace(images=2), *(t._replace(least_batch=1) for t in TILES)], indirect=True
)
def test_every_tile_draws_what_the_cpu_draws(guarded, tile):
    case = arguments(3, 5, 4, kept=0.1)
    assert torch.equal(draw(*case), draw(*case, body=native))


@pytest.mark.parametrize("tile", [WIDE], indirect=True)
def test_same_bits_for_any_split(tile):
    context, params, uniforms, mask = arguments(9, 3, 4, kept=0.1)
    whole = draw(context, params, uniforms, mask)
    for part in (slice(3, 4), slice(1, 9)):
        assert torch.equal(draw(context[part], params, uniforms[part], mask[part]), whole[part])


def test_no_pixels():
    assert draw(*arguments(3, 0, 4)).shape == (3, 1, 0, 4)


def test_the_tuned_case():
    check(*arguments(1, 28, 28, C=12, K=4, L=5, P=4)[:3], spec=PixelCNNSpec())
