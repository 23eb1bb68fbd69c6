"""The reference itself: gradients, masks as Jacobians show them, sampling against teacher forcing, flow inversion."""

import pytest
import torch
from conftest import TOLERANCE, assert_close, made_params, pixelcnn_params
from torch.autograd.functional import jacobian

from vlae_fast import PixelCNNSpec, reference
from vlae_fast.reference import MADEFlowParams

F64 = torch.float64
WIRINGS = [
    pytest.param(dict(L=0, P=0, S=1), PixelCNNSpec(), id="input-layer-only"),
    pytest.param(dict(L=5, P=4, S=1), PixelCNNSpec(), id="R1"),
    pytest.param(dict(L=6, P=4, S=1), PixelCNNSpec(0.1, 2, (0, 0, 1, 1)), id="R2"),
    pytest.param(dict(L=4, P=2, S=4), PixelCNNSpec(1.0, 2), id="R4-untied"),
    pytest.param(dict(L=2, P=1, S=2), PixelCNNSpec(visible_stride=2), id="strided"),
]


def leaves(params):
    """The parameters as tensors that record gradients."""
    return type(params)(*(p.requires_grad_() if p.dtype == F64 else p for p in params))


@pytest.mark.parametrize("mask", ["A", "B"])
@pytest.mark.parametrize("pre_elu", [False, True])
def test_masked_conv_gradcheck(mask, pre_elu):
    shapes = ((2, 2, 3, 4), (3, 2, 3, 3), (3,), (3,), (2, 3, 3, 4))
    x, weight, bias, gain, residual = (torch.randn(s, dtype=F64, requires_grad=True) for s in shapes)

    def conv(*t):
        return reference.masked_conv3x3(
            t[0], t[1], t[2], gain=t[3], residual=t[4], mask=mask, pre_elu=pre_elu, residual_scale=0.5
        )

    assert torch.autograd.gradcheck(conv, (x, weight, bias, gain, residual))


@pytest.mark.parametrize(("sizes", "spec"), WIRINGS)
def test_pixelcnn_gradcheck(sizes, spec):
    params = leaves(pixelcnn_params(C=2, K=1, dtype=F64, **sizes))
    x = torch.randn(2, 1, 3, 4, dtype=F64, requires_grad=True)
    context = torch.randn(2, 1, 3, 4, dtype=F64, requires_grad=True)

    def logits(x, context, *params):
        return reference.pixelcnn_logits(x, context, reference.PixelCNNParams(*params), spec)

    assert torch.autograd.gradcheck(logits, (x, context, *params), fast_mode=True)


@pytest.mark.parametrize("scale", [False, True])
def test_made_gradcheck(scale):
    params = leaves(made_params(D=4, M=6, T=2, scale=scale, dtype=F64))
    z, context = (torch.randn(s, dtype=F64, requires_grad=True) for s in ((3, 4), (3, 2, 6)))

    def flow(z, context, *weights):
        return reference.made_flow_forward(z, MADEFlowParams(*weights, params.degrees), context)

    def inverse(eps, context, *weights):
        return reference.made_flow_inverse(eps, MADEFlowParams(*weights, params.degrees), context)

    assert torch.autograd.gradcheck(flow, (z, context, *params[:6]))
    assert torch.autograd.gradcheck(inverse, (z, context, *params[:6]))


def test_weight_norm_gradcheck():
    v, g = torch.randn(4, 6, dtype=F64, requires_grad=True), torch.randn(4, dtype=F64, requires_grad=True)
    live = torch.tensor([0, 6, 1, 4])
    assert torch.autograd.gradcheck(lambda v, g: reference.weight_norm(v, g, live), (v, g))


def test_weight_norm_gives_rows_of_norm_g_that_end_at_the_mask():
    v, g, live = torch.randn(4, 6, dtype=F64), torch.rand(4, dtype=F64), torch.tensor([0, 6, 1, 4])
    w = reference.weight_norm(v, g, live)
    assert ((w == 0) == (torch.arange(6) >= live[:, None])).all()
    assert_close(w.norm(dim=1)[1:], g[1:], "float64")
    assert_close(w[1], g[1] * v[1] / v[1].norm(), "float64")


def dependence(function, x):
    """Which outputs [out, in] depend on which inputs, by the Jacobian."""
    J = jacobian(function, x)
    return (J.reshape(J[(0,) * J.dim()].numel() * function(x).numel(), x.numel()) != 0).numpy()


def window(H, W, layers, own):
    """[H*W, H*W]: does pixel i see pixel j through so many causal 3x3 layers, the first of mask A unless `own`?"""
    first = {(-1, -1), (-1, 0), (-1, 1), (0, -1)} | ({(0, 0)} if own else set())
    later = first | {(0, 0)}
    sees = torch.zeros(H * W, H * W, dtype=torch.bool)
    for i in range(H):
        for j in range(W):
            reached = {(i, j)}
            for taps in [later] * layers + [first]:
                reached = {(a + di, b + dj) for a, b in reached for di, dj in taps}
                reached = {(a, b) for a, b in reached if 0 <= a < H and 0 <= b < W}
            for a, b in reached:
                sees[i * W + j, a * W + b] = True
    return sees.numpy()


@pytest.mark.parametrize("mask", ["A", "B"])
def test_masked_conv_sees_exactly_what_the_mask_allows(mask):
    weight, bias = torch.randn(1, 1, 3, 3, dtype=F64), torch.zeros(1, dtype=F64)
    x = torch.randn(1, 1, 5, 6, dtype=F64)
    sees = dependence(lambda x: reference.masked_conv3x3(x, weight, bias, mask=mask), x)
    assert (sees == window(5, 6, 0, own=mask == "B")).all()


@pytest.mark.parametrize(("sizes", "spec"), WIRINGS)
def test_pixelcnn_sees_exactly_its_window(sizes, spec):
    H, W = 9, 11
    params = pixelcnn_params(C=3, K=0, dtype=F64, **sizes)
    x = torch.randn(1, 1, H, W, dtype=F64)
    sees = dependence(lambda x: reference.pixelcnn_logits(x, None, params, spec), x)
    expected = window(H, W, sizes["L"], own=False)
    pixels = torch.arange(H * W)
    hidden = (pixels // W % spec.visible_stride != 0) | (pixels % W % spec.visible_stride != 0)
    expected[:, hidden.numpy()] = False
    assert (sees == expected).all()


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("degrees", [None, [0, 0, 1, 3, 3, 3]], ids=["even", "gaps"])
def test_made_jacobian_is_triangular_and_gives_the_log_det(scale, degrees):
    D = 5
    degrees = None if degrees is None else torch.tensor(degrees)
    params = made_params(D=D, M=20 if degrees is None else 6, T=1, scale=scale, degrees=degrees, dtype=F64)
    params = params._replace(bias1=params.bias1.abs() + 2, bias2=params.bias2.abs() + 2)  # no ReLU is shut
    z = torch.randn(1, D, dtype=F64)
    J = jacobian(lambda z: reference.made_flow_forward(z, params)[0][0].flip(0), z)[:, 0]  # before the reversal
    assert (J.triu(1) == 0).all()
    if degrees is None:
        assert (J.tril() != 0).sum() == D * (D + 1) // 2
    elif not scale:
        assert torch.equal(J.diagonal(), torch.ones(D, dtype=F64))
    assert_close(J.diagonal().abs().log().sum(), reference.made_flow_forward(z, params)[1][0], "float64")


@pytest.mark.parametrize("scale", [False, True])
def test_flow_round_trip_and_log_det(scale):
    params = made_params(D=6, M=15, T=3, scale=scale, dtype=F64)
    z, context = torch.randn(4, 6, dtype=F64), torch.randn(4, 3, 15, dtype=F64)
    eps, log_det = reference.made_flow_forward(z, params, context)
    assert_close(reference.made_flow_inverse(eps, params, context), z, "float64")
    for n in range(4):
        J = jacobian(lambda z, n=n: reference.made_flow_forward(z[None], params, context[n : n + 1])[0][0], z[n])
        assert_close(torch.linalg.slogdet(J)[1], log_det[n], "float64")


@pytest.mark.parametrize(("sizes", "spec"), WIRINGS)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_sampler_draws_what_teacher_forcing_says(sizes, spec, temperature):
    params = pixelcnn_params(C=3, K=2, dtype=F64, **sizes)
    context, uniforms = torch.randn(3, 2, 5, 6, dtype=F64), torch.rand(3, 5, 6, dtype=F64)
    x = reference.pixelcnn_sample(context, params, uniforms, spec, temperature=temperature)
    p = torch.sigmoid(reference.pixelcnn_logits(x, context, params, spec)[:, 0] / temperature)
    assert (x[:, 0] == (uniforms < p)).all()
    assert 0 < x.mean() < 1


def test_sampler_keeps_given_pixels():
    params = pixelcnn_params(C=3, K=0, dtype=F64)
    uniforms, given = torch.rand(3, 6, 5, dtype=F64), torch.randint(-1, 2, (3, 6, 5), dtype=torch.int8)
    x = reference.pixelcnn_sample(None, params, uniforms, given=given)[:, 0]
    assert (x[given >= 0] == given[given >= 0]).all()
    p = torch.sigmoid(reference.pixelcnn_logits(x[:, None], None, params)[:, 0])
    assert (x == uniforms.lt(p))[given < 0].all()


def test_log_prob_is_normalised():
    params = pixelcnn_params(C=3, K=0, L=2, P=1, dtype=F64)
    images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=F64)] * 6).view(-1, 1, 2, 3)
    total = reference.pixelcnn_log_prob(images, None, params).exp().sum()
    assert abs(total.item() - 1) < TOLERANCE["float64"]
