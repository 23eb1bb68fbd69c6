"""Arguments of every op in ordinary sizes, and what maps over the tensors in them."""

from functools import partial

import torch
from conftest import made_params, pixelcnn_params

from vlae_fast import MADEParams, MADESpec, PixelCNNSpec
from vlae_fast.ops import MADELayer
from vlae_fast.ops.pixelcnn.wiring import wiring as wiring_of
from vlae_fast.params import resnet_block


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


def residual_spec(D=4, M=7, activation="tanh", scale="softplus", numbers=(1e-3,), gated=False):
    """Every kind of layer: a residual block, context, gates where wanted, and outputs that see the variables too."""
    layers = (
        MADELayer(M, context=True),
        MADELayer(M + 2, 0, True, context=True),
        MADELayer(M, 1, True, 0, gated=gated),
        MADELayer(outputs := D if scale == "none" else 2 * D),
        MADELayer(outputs, 2, False, 3),
    )
    return MADESpec(layers, activation, scale, numbers)


def net_params(spec, D):
    """Random; forbidden connections too. Shifts and what becomes scales stay small, or an inverse blows up."""
    sizes = spec.sizes(D)
    columns = [spec.columns(i, D) for i in range(len(spec.layers))]
    gains = [*[1.0] * (len(columns) - 1), 0.3]
    draws = zip(spec.layers, columns, gains, strict=True)
    weight = torch.cat([g * torch.randn(layer.rows * n) / max(n, 1) ** 0.5 for layer, n, g in draws])
    bias, degrees = 0.3 * torch.randn(sizes["B"]), torch.randint(0, D + 1, (sizes["U"],))
    return MADEParams(weight, bias, degrees, torch.randperm(D))


def net_arguments(name="x", N=3, D=4, M=7, **options):
    spec = residual_spec(D, M, **{"gated": True} | options)
    sizes = spec.sizes(D)
    batched = {
        name: torch.randn(N, D),
        "hidden_context": torch.randn(N, sizes["C"]),
        "gates": torch.rand(N, sizes["G"]),
    }
    return batched | {"params": net_params(spec, D), "spec": spec}


def norm_arguments():
    return dict(v=torch.randn(5, 9), g=torch.randn(5), live=torch.tensor([0, 9, 3, 8, 1]))


def norms_arguments():
    shapes = [((4, 3, 3, 3), 0), ((5, 6), 1)]
    v, g = ([torch.randn(shape if whole else shape[axis]) for shape, axis in shapes] for whole in (True, False))
    return dict(v=v, g=g, axes=[axis for _, axis in shapes])


def exp_arguments(N=7):
    return dict(x=torch.randn(N))


def dense_arguments(N=3, C=5, K=4):
    return dict(x=torch.randn(N, C), weight=torch.randn(K, C), bias=torch.randn(K), pre_elu=True)


def block(kind, C=3, M=2, K=4, size=None):
    """A random residual block."""
    up, same = kind == "up", kind == "same"
    if kind == "output":
        shapes = [(K, C, 3, 3), (K,)]
    else:
        skip = [] if same else [(C, K, 3, 3) if up else (K, C, 3, 3), (K,)]
        shapes = [(M, C, 3, 3), (M,), (M, K, 3, 3) if up else (K, M, 3, 3), (K,), *skip]
    return resnet_block(kind, [torch.randn(s) / (3 * max(s[1:2]) ** 0.5 if len(s) > 1 else 2) for s in shapes], size)


def resnet_arguments(N=2, C=3, H=5, W=7):
    blocks = [block("down", C, 2, 4), block("same", 4, 3, 4), block("up", 4, 2, 3, (H, W)), block("output", 3, K=2)]
    return dict(x=torch.randn(N, C, H, W), blocks=blocks, residual_scale=0.5)


def bernoulli_arguments(N=3, H=5, W=7):
    return dict(x=(torch.rand(N, 1, H, W) < 0.4).float(), logits=4 * torch.randn(N, 1, H, W))


CASES = {
    "masked_conv3x3": conv_arguments,
    "pixelcnn_logits": stack_arguments,
    "pixelcnn_log_prob": stack_arguments,
    "pixelcnn_sample": sample_arguments,
    "made_flow_forward": flow_arguments,
    "made_flow_inverse": partial(flow_arguments, "eps"),
    "made_forward": net_arguments,
    "made_inverse": partial(net_arguments, "y"),
    "weight_norm": norm_arguments,
    "weight_norms": norms_arguments,
    "exp": exp_arguments,
    "resnet": resnet_arguments,
    "dense": dense_arguments,
    "bernoulli_log_prob": bernoulli_arguments,
}
CPU_ALONE = ("made_forward", "made_inverse")
BATCHED = {"x", "context", "residual", "uniforms", "given", "z", "eps", "hidden_context", "y", "gates", "logits"}
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
    if isinstance(value, list):
        return [mapped(v, function) for v in value]
    if hasattr(value, "_fields"):
        return type(value)(*(mapped(v, function) for v in value))
    return value


def outputs(result):
    """What an op gives, as a tuple."""
    return (result,) if isinstance(result, torch.Tensor) else tuple(result)
