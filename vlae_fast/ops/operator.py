"""Makes torch operators of bodies, shapes and gradients."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

__all__ = ["count_flops", "no_gradient", "register", "worth_keeping"]

KEPT_BYTES = 2**26
"""What one call keeps of its forward pass at most: more comes from memory slower than it is computed anew."""


def register(
    schema: str,
    cpu: Callable[..., Any],
    fake: Callable[..., Any],
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
) -> None:
    """Makes the operator `vlae_fast::<schema>` of a CPU body, a shape body and a gradient (a gradient's own: none).

    The CUDA body is the function of the same name in `gpu.py`, beside the CPU body's `cpu.py`.
    """
    op = schema[: schema.index("(")]
    name = f"vlae_fast::{op}"
    torch.library.define(name, schema[schema.index("(") :])
    torch.library.impl(name, "cpu")(cpu)
    torch.library.impl(name, "cuda")(_cuda_body(cpu))
    torch.library.register_fake(name)(fake)
    if backward is None:
        backward = no_gradient(f"{name}: no second derivatives; use_backend('reference') has them")
    torch.library.register_autograd(name, backward, setup_context=setup_context)
    torch.library.register_vmap(name, _one_by_one(op))


def worth_keeping(floats: int, *tensors: Tensor) -> bool:
    """Whether a call should keep so many floats for its backward pass: one is wanted, and memory is no narrower.

    A graph that torch.compile or torch.export makes may serve any batch, and keeps whatever its size.
    """
    if not torch.is_grad_enabled() or not any(t.requires_grad for t in tensors):
        return False
    return torch.compiler.is_compiling() or 4 * floats <= KEPT_BYTES


def count_flops(op: str, flops: Callable[..., int]) -> None:
    """Tells torch's FLOP counter what an operator and its gradient cost, by the shapes of the operator's arguments."""
    register_flop_formula(getattr(torch.ops.vlae_fast, op))(lambda *shapes, **rest: flops(*shapes))
    backward = getattr(torch.ops.vlae_fast, f"{op}_backward")
    register_flop_formula(backward)(lambda dy, *shapes, **rest: 2 * flops(*shapes))


def _cuda_body(cpu: Callable[..., Any]) -> Callable[..., Any]:
    def body(*arguments: Any) -> Any:
        # when it is needed: Triton takes a while to import, and may be missing
        gpu = importlib.import_module(f"{cpu.__module__.removesuffix('.cpu')}.gpu")
        return getattr(gpu, cpu.__name__)(*arguments)

    return body


def _one_by_one(op: str) -> Callable[..., Any]:
    """What torch.func.vmap does with the operator: one call an element (torch's own way knows no lists of tensors)."""

    def element(value: Any, axis: Any, i: int) -> Any:
        if isinstance(value, list) and isinstance(axis, list):
            return [element(v, a, i) for v, a in zip(value, axis, strict=True)]
        return value if axis is None else value.select(axis, i)

    def rule(info: Any, axes: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        call = getattr(torch.ops.vlae_fast, op)
        results = [call(*element([*arguments], [*axes], i)) for i in range(info.batch_size)]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        stacked = [torch.stack(parts) for parts in zip(*results, strict=True)]
        return type(results[0])(stacked), type(results[0])([0] * len(stacked))

    return rule


def no_gradient(reason: str) -> Callable[..., Any]:
    """A backward formula that says that there is none, and why."""

    def backward(ctx: Any, *gradients: Tensor) -> None:
        raise NotImplementedError(reason)

    return backward
