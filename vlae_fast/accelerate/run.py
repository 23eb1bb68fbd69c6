"""Steps of a flow, permutations before and behind them, undone in one native call where no gradient is wanted."""

from array import array
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vlae_fast.accelerate.net import Net, Plan, Stage
from vlae_fast.ops import values
from vlae_fast.ops.arguments import transforms_in_force
from vlae_fast.ops.backend import reference_chosen
from vlae_fast.ops.made.cpu import LAYER, STEP, transform

__all__ = ["Step", "undo"]

Step = tuple[Net, Tensor | None]
"""A net, and a permutation before it: variable i is variable `permutation[i]` of what comes in. None: as it comes."""


class _NotPlainError(Exception):
    """A tensor that native code cannot read as it stands, or that a gradient is wanted of."""


def undo(
    steps: Sequence[Step], order: Tensor | None, y: Tensor, context: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """x [N, D] and the sum of the log_dets [N], for y [N, D] and the context [N or 1, .] of all steps.

    `order` is a permutation behind the last step; of all permutations only the size is checked. None where sizes do not
    fit, where a gradient is wanted, where something else than torch's ordinary eager mode is in force, or where tensors
    or results are not finite float32 on the CPU. Raises what a function of the context raises, and a NonFiniteError for
    the context.
    """
    if (
        torch.compiler.is_compiling()
        or reference_chosen()
        or transforms_in_force()
        or torch._C._len_torch_dispatch_stack()
    ):
        return None
    D = steps[0][0].D
    for net, permutation in (*steps, (steps[0][0], order)):
        if net.D != D or (permutation is not None and (permutation.shape != (D,) or not permutation.is_cpu)):
            return None
    try:
        plain = _plain(y.contiguous(), (len(y), D))
        if context is not None:
            if context.dtype != torch.float32 or not context.is_cpu:
                raise _NotPlainError
            values.finite(context=context)
        plans = [net.plan() for net, _ in steps]
        layers, alive = _layers(plans, [stage for net, _ in steps for stage in net.stages], len(y), context)
    except _NotPlainError:
        return None
    table = array("q")
    for i, (plan, (_, permutation)) in enumerate(zip(plans, steps, strict=True)):
        table.extend(plan.step)
        if permutation is not None:
            table[i * STEP + 1] = permutation.data_ptr()
    x, log_det = transform(plain, table, layers, order, inverse=True)
    del alive
    return (x, log_det) if np.isfinite(x.numpy()).all() else None


def _layers(
    plans: list[Plan], stages: list[Stage], N: int, context: Tensor | None
) -> tuple["array[int]", list[Tensor]]:
    """The MADELayers of all nets, and tensors that they point to."""
    table, alive = array("q"), []
    for plan in plans:
        table.extend(plan.layers)
    for i, stage in enumerate(stages):
        at = i * LAYER
        rows, columns = table[at + 7 : at + 9]
        weight, bias = stage.tensors()
        table[at] = _plain(weight, (rows, columns)).data_ptr() + 4 * (stage.columns.start or 0)
        alive.append(weight)
        if bias is not None:
            table[at + 1] = _plain(bias, (rows,)).data_ptr()
            alive.append(bias)
        for k, function in ((5, stage.context), (6, stage.gate)):
            if function is not None and context is not None:
                made = function(context).contiguous()
                count = len(made) if made.dim() else 0
                table[at + k] = _plain(made, (1 if count == 1 else N, rows)).data_ptr()
                table[at + k + 4] = rows if count > 1 else 0
                alive.append(made)
    return table, alive


_TYPES = (Tensor, nn.Parameter)


def _plain(t: Tensor, shape: tuple[int, ...]) -> Tensor:
    if (
        type(t) not in _TYPES
        or t.dtype != torch.float32
        or not t.is_cpu
        or t.shape != shape
        or not t.is_contiguous()
        or (t.requires_grad and torch.is_grad_enabled())
    ):
        raise _NotPlainError
    return t
