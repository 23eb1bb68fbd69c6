"""Arguments of every op in ordinary sizes, and what maps over the tensors in them."""

from functools import partial

import torch
from conftest import made_params, pixelcnn_params

from vlae_fast import PixelCNNSpec
from vlae_fast.ops.pixelcnn.wiring import wiring as wiring_of


def conv_arguments(N=2, C=3, K=4, H=5, W=6):
    shapes = {"x": (N, C, H, W), "weight": (K, C, 3, 3), "bias": (K,), "gain": (K,), "residual": (N, K, H, W)}
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    return tensors | dict(mask="B", pre_elu=True, residual_scale=0.5)


def stack_arguments(N=2, K=2, H=5, W=6, L=4, P=2, C=3, spec=PixelCNNSpec(0.5, 2)):
    x, context = torch.randint(0, 2, (N, 1, H, W)).float(), torch.randn(N, K, H, W)
    return dict(x=x, context=context, params=pixelcnn_params(C=C, K=K, L=L, P=P), spec=spec)


def sample_arguments(**size):
    arguments = stack_arguments(**size)
    x = arguments.pop("x")[:, 0]
    given = torch.randint(-1, 2, x.shape, dtype=torch.int8)
    return arguments | dict(uniforms=torch.rand_like(x), temperature=0.7, given=given)


def flow_arguments(name="z", N=3, D=5, M=12, T=2):
    params = made_params(D=D, M=M, T=T, scale=True)
    return {name: torch.randn(N, D), "params": params, "hidden_context": torch.randn(N, T, M)}


def norm_arguments():
    return dict(v=torch.randn(5, 9), g=torch.randn(5), live=torch.tensor([0, 9, 3, 8, 1]))


CASES = {
    "masked_conv3x3": conv_arguments,
    "pixelcnn_logits": stack_arguments,
    "pixelcnn_log_prob": stack_arguments,
    "pixelcnn_sample": sample_arguments,
    "made_flow_forward": flow_arguments,
    "made_flow_inverse": partial(flow_arguments, "eps"),
    "weight_norm": norm_arguments,
}
BATCHED = {"x", "context", "residual", "uniforms", "given", "z", "eps", "hidden_context"}
"""Arguments with a batch axis."""
DIFFERENTIABLE = tuple(op for op in CASES if op != "pixelcnn_sample")


# --- what the bodies take ---------------------------------------------------------------------------------------


def conv_tensors(N, C, K, H, W, gain=True, residual=True):
    """x, weight, bias, gain, residual; None for what is left out."""
    x, weight, bias = torch.randn(N, C, H, W), torch.randn(K, C, 3, 3) / (5 * C) ** 0.5, torch.randn(K)
    return x, weight, bias, torch.rand(K) + 0.5 if gain else None, torch.randn(N, K, H, W) if residual else None


def stack_tensors(N, H, W, sizes, spec):
    """(x, context, params), and the wiring."""
    params = pixelcnn_params(**sizes)
    x = (torch.rand(N, 1, H, W) < 0.4).float()
    context = torch.randn(N, params.context_weight.shape[1], H, W)
    return (x, context, list(params)), wiring_of(spec, params)


def flow_tensors(N, params, with_context):
    """Latents, hidden_context or None."""
    T, M = params.bias1.shape
    return torch.randn(N, params.weight1.shape[2]), torch.randn(N, T, M) if with_context else None


# --- what maps over arguments -----------------------------------------------------------------------------------


def tensors_of(value):
    """All float tensors in the arguments, in order."""
    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict | tuple | list):
        return [t for v in (value.values() if isinstance(value, dict) else value) for t in tensors_of(v)]
    return []


def mapped(value, function):
    """The arguments with every float tensor replaced."""
    if isinstance(value, torch.Tensor):
        return function(value) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {k: mapped(v, function) for k, v in value.items()}
    if hasattr(value, "_fields"):
        return type(value)(*(mapped(v, function) for v in value))
    return value


def outputs(result):
    return result if isinstance(result, tuple) else (result,)
