"""What `make bench-compare` runs on both revisions: every compiled body once, through the public ops alone."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pixelcnn_cases as inputs
import torch
from bench_made import draw
from bench_masked_conv import FUSED, tensors
from torch import Tensor

from vlae_fast import VLAE, PixelCNNParams, VLAEConfig, masks, ops
from vlae_fast.reference import MADEFlowParams


def cases() -> dict[str, Callable[[], Any]]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return {**masked_conv(), **pixelcnn(), **made(), **weight_norm(), **model()}


def gradients(call: Callable[[], Tensor], leaves: list[Tensor]) -> Callable[[], Any]:
    return lambda: torch.autograd.grad(call().sum(), leaves)


def without_gradients(call: Callable[[], Any]) -> Callable[[], Any]:
    return torch.no_grad()(call)


def masked_conv() -> dict[str, Callable[[], Any]]:
    x, weight, bias, gain, residual = leaves = tensors(N=16, image=28, channels=12)
    call = partial(ops.masked_conv3x3, x, weight, bias, gain=gain, residual=residual, **FUSED)
    return {"masked_conv3x3": without_gradients(call), "masked_conv3x3 + gradients": gradients(call, leaves)}


def pixelcnn() -> dict[str, Callable[[], Any]]:
    context, uniforms = inputs.context(16, 28).requires_grad_(), torch.rand(16, 28, 28)
    params = PixelCNNParams(*(t.requires_grad_() for t in inputs.network(12, 5)))
    x = (uniforms < 0.3).float()[:, None]
    score = partial(ops.pixelcnn_log_prob, x, context, params, inputs.SPEC)
    calls = {
        "pixelcnn_log_prob": without_gradients(score),
        "pixelcnn_log_prob + gradients": gradients(score, [context, *params]),
    }
    for N in (1, 16):
        draw_images = partial(ops.pixelcnn_sample, context[:N].detach(), params, uniforms[:N], inputs.SPEC)
        calls[f"pixelcnn_sample N={N}"] = without_gradients(draw_images)
    return calls


def made() -> dict[str, Callable[[], Any]]:
    *weights, degrees = draw(64, 640)
    leaves = [t.requires_grad_() for t in weights]
    params = MADEFlowParams(*leaves, degrees)
    z = torch.randn(64, 64)
    calls = {"made_flow_forward + gradients": gradients(lambda: ops.made_flow_forward(z, params)[0], leaves)}
    for N in (1, 64):
        calls[f"made_flow_forward N={N}"] = without_gradients(partial(ops.made_flow_forward, z[:N], params))
        calls[f"made_flow_inverse N={N}"] = without_gradients(partial(ops.made_flow_inverse, z[:N], params))
    return calls


def weight_norm() -> dict[str, Callable[[], Any]]:
    v, g = torch.randn(2560, 640).requires_grad_(), torch.rand(2560).requires_grad_()
    live = masks.made_live(masks.made_degrees(64, 640), 64)[1].repeat(4)
    call = partial(ops.weight_norm, v, g, live)
    return {"weight_norm": without_gradients(call), "weight_norm + gradients": gradients(call, [v, g])}


def model() -> dict[str, Callable[[], Any]]:
    model = VLAE(VLAEConfig.preset("paper"))
    x = (torch.rand(16, 1, 28, 28) < 0.2).float()
    model.initialize(x)
    eps, leaves = torch.randn(16, model.config.latent_size), list(model.parameters())
    return {
        "model.sample N=16": lambda: model.sample(16),
        "model.elbo + gradients N=16": gradients(lambda: model.elbo(x, noise=eps).elbo, leaves),
    }
