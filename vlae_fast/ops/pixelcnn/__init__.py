"""The ops of a whole PixelCNN, `pixelcnn_logits`, `pixelcnn_log_prob` and `pixelcnn_sample`, and their operators."""

from typing import Any

import torch
from torch import Tensor

from vlae_fast import checks
from vlae_fast.config import PixelCNNSpec
from vlae_fast.ops import values
from vlae_fast.ops.arguments import Arguments
from vlae_fast.ops.operator import no_gradient, register
from vlae_fast.ops.pixelcnn import cpu, reference
from vlae_fast.ops.pixelcnn.wiring import wiring
from vlae_fast.params import PixelCNNParams

__all__ = ["pixelcnn_log_prob", "pixelcnn_logits", "pixelcnn_sample"]


def pixelcnn_logits(
    x: Tensor, context: Tensor | None, params: PixelCNNParams, spec: PixelCNNSpec = PixelCNNSpec()
) -> Tensor:
    """Logits of every pixel given the pixels before it, the whole stack in one op (the paper's appendix A).

    Args:
        x: [N, 1, H, W] float32, any finite values.
        context: [N, K, H, W], or None with `context_weight` [C, 0, 3, 3].
        params: Plain weights, see `PixelCNNParams`.
        spec: Wiring of the layers.

    Returns:
        [N, 1, H, W], differentiable in x, context and all parameters.

    Raises:
        TypeError: No tensor, or wrong dtype.
        ValueError: Wrong shape or device, or wiring that does not fit; a NonFiniteError for NaN or infinity in x or
            context. Parameters are not looked at: their NaN shows in the logits.
    """
    arguments = Arguments("pixelcnn")
    x = arguments.tensor("x", x)
    context, params = _check(arguments, context, params, spec)
    if arguments.reference:
        values.finite(x=x, context=context)
        return reference.pixelcnn_logits(x, context, params, spec)
    logits: Tensor = torch.ops.vlae_fast.pixelcnn_logits(x, *_operands(x, context, params, spec))
    return logits


def pixelcnn_log_prob(
    x: Tensor, context: Tensor | None, params: PixelCNNParams, spec: PixelCNNSpec = PixelCNNSpec()
) -> Tensor:
    """Log-likelihood of binary images in nats, [N]: `pixelcnn_logits` reduced without writing the logits.

    Arguments, gradients and errors as for `pixelcnn_logits`; x must be binary (0 or 1), else ValueError.
    """
    arguments = Arguments("pixelcnn")
    x = arguments.tensor("x", x)
    context, params = _check(arguments, context, params, spec)
    if arguments.reference:
        values.binary("x", x)
        values.finite(context=context)
        return reference.pixelcnn_log_prob(x, context, params, spec)
    log_prob: Tensor = torch.ops.vlae_fast.pixelcnn_log_prob(x, *_operands(x, context, params, spec))
    return log_prob


def pixelcnn_sample(
    context: Tensor | None,
    params: PixelCNNParams,
    uniforms: Tensor,
    spec: PixelCNNSpec = PixelCNNSpec(),
    *,
    temperature: float = 1.0,
    given: Tensor | None = None,
) -> Tensor:
    """Binary images drawn pixel after pixel, with cached activations: no position is computed twice.

    A pixel is 1 where `u < sigmoid(logit / temperature)`.

    Args:
        context: [N, K, H, W], or None with `context_weight` [C, 0, 3, 3].
        params: Plain weights, see `PixelCNNParams`.
        uniforms: [N, H, W] float32 in [0, 1).
        spec: Wiring of the layers.
        temperature: Positive; below 1 the draws are more certain.
        given: [N, H, W] int8 for inpainting: 0 or 1 is kept, -1 is drawn.

    Returns:
        [N, 1, H, W] float32, 0 or 1: constants, detached from all that records gradients, as torch.bernoulli's are.

    Raises:
        TypeError: No tensor, no number, or wrong dtype.
        ValueError: Wrong shape, device or value; a NonFiniteError for NaN or infinity, also for parameters that make
            logits NaN. On a GPU, where nothing waits to look, such a pixel is NaN.
    """
    # To float32 numbers beyond these limits are 0 or infinity; the limits draw the same.
    temperature = min(max(checks.real("temperature", temperature, positive=True), 2.0**-126), 2.0**127)
    arguments = Arguments("pixelcnn", drawing=True)
    uniforms = arguments.tensor("uniforms", uniforms)
    context, params = _check(arguments, context, params, spec)
    given = arguments.optional("given", given)
    if arguments.reference:
        values.finite(context=context)
        values.uniform("uniforms", uniforms)
        if given is not None:
            values.within("given", given, "values -1, 0 or 1", -1, 1)
        x = reference.pixelcnn_sample(context, params, uniforms, spec, temperature=temperature, given=given)
        values.drawn(x)
        return x
    context, tensors, *wires = _operands(uniforms[:, None], context, params, spec)
    x = torch.ops.vlae_fast.pixelcnn_sample(context, tensors, uniforms, *wires, temperature, given)
    return x


def _check(
    arguments: Arguments, context: Tensor | None, params: PixelCNNParams, spec: PixelCNNSpec
) -> tuple[Tensor | None, PixelCNNParams]:
    """Context and parameters, contiguous and of fitting sizes. N, H and W are known already."""
    if not isinstance(spec, PixelCNNSpec):
        raise TypeError(f"spec: PixelCNNSpec wanted, got {type(spec).__name__}")
    params, sizes = arguments.params(params), arguments.sizes
    spec.pointwise_positions(sizes["P"], sizes["L"])
    if context is not None:
        return arguments.tensor("context", context), params
    if sizes["K"]:
        raise ValueError(f"context: [N, K={sizes['K']}, H, W] wanted (as params.context_weight has it), got None")
    return None, params


def _operands(
    images: Tensor, context: Tensor | None, params: PixelCNNParams, spec: PixelCNNSpec
) -> tuple[Tensor, list[Tensor], list[int], float, int]:
    """What all operators take: context (K = 0 without), parameters and wiring."""
    if context is None:
        context = images.new_empty(images.shape[0], 0, *images.shape[2:])
    return context, list(params), *wiring(spec, params)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, context, params, *ctx.wiring = inputs
    ctx.save_for_backward(x, context, *params)


def _backward_of(op: str) -> Any:
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        x, context, *params = ctx.saved_tensors
        run = getattr(torch.ops.vlae_fast, f"{op}_backward")
        dx, dcontext, *dparams = run(upstream.contiguous(), x, context, params, *ctx.wiring)
        table = ctx.wiring[0]  # torch takes None for a list of ints, but for an empty one an empty list
        return dx, dcontext, dparams, None if table else [], None, None

    return backward


def _backward_fake(upstream: Tensor, x: Tensor, context: Tensor, params: list[Tensor], *rest: Any) -> list[Tensor]:
    return [torch.empty_like(t) for t in (x, context, *params)]


def _log_prob_fake(x: Tensor, *rest: Any) -> Tensor:
    return x.new_empty(x.shape[0])


def _sample_fake(context: Tensor, params: list[Tensor], uniforms: Tensor, *rest: Any) -> Tensor:
    return uniforms.new_empty(uniforms.shape[0], 1, *uniforms.shape[1:])


def _logits_fake(x: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(x)


_WIRING = "int[] stages, float residual_scale, int visible_stride"
_STACK = f"Tensor x, Tensor context, Tensor[] params, {_WIRING}"
for _op, _cpu, _cpu_backward, _fake in (
    ("pixelcnn_logits", cpu.pixelcnn_logits, cpu.pixelcnn_logits_backward, _logits_fake),
    ("pixelcnn_log_prob", cpu.pixelcnn_log_prob, cpu.pixelcnn_log_prob_backward, _log_prob_fake),
):
    register(f"{_op}_backward(Tensor upstream, {_STACK}) -> Tensor[]", _cpu_backward, _backward_fake)
    register(f"{_op}({_STACK}) -> Tensor", _cpu, _fake, _setup_context, _backward_of(_op))
register(
    f"pixelcnn_sample(Tensor context, Tensor[] params, Tensor uniforms, {_WIRING}, float temperature, Tensor? given)"
    " -> Tensor",
    cpu.pixelcnn_sample,
    _sample_fake,
    backward=no_gradient("pixelcnn_sample is not differentiable: it draws samples; score them with pixelcnn_log_prob"),
)
