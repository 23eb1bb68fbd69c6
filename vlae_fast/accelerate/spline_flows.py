"""The MADE of the code of Neural Spline Flows (Durkan et al. 2019, arXiv:1906.04032), which nflows and normflows share.

Residual blocks `h + W2 act(W1 act(h) + c) + b` or feed-forward ones; the outputs alternate, scale first.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from vlae_fast.accelerate.net import Diagonal, Net, Stage, UnsupportedError, activation_name
from vlae_fast.accelerate.swap import Swap

__all__ = ["Inverse", "made_net"]

Contexts = Callable[[Any, Any], Any]


class Inverse(Swap):
    """`inverse(inputs [N, D], context [N, .]) -> outputs, logabsdet`, as both libraries have it."""

    method = "inverse"

    def parts(self) -> nn.Module:
        """See `Swap`."""
        net: nn.Module = self.module.autoregressive_net
        return net

    def __call__(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The library's `inverse`."""
        found = self.inverse(inputs, context) if inputs.dim() == 2 else None
        if found is None:
            result: tuple[Tensor, Tensor] = self.original()(inputs, context)
            return result
        return found


def made_net(
    made: Any,
    first: Callable[[Tensor], Tensor] | None,
    block_context: Callable[[Any], Any],
    block_gate: Callable[[Any], Any],
    feeds_activated: bool,
    scale: str,
    numbers: tuple[float, ...],
) -> Net:
    """The net: what `first` makes of the context is added to the first layer, `block_context` and `block_gate` tell the
    functions of the context for a residual block; `feeds_activated`: feed-forward blocks read activations from the
    first on.
    """
    stages = [Stage(made.initial_layer, context=first)]
    activation = made.blocks[0].activation if len(made.blocks) else made.activation
    stream = 0
    for i, block in enumerate(made.blocks):
        if block.activation is not activation:
            raise UnsupportedError("more than one activation")
        if hasattr(block, "linear_layers"):
            stream = _residual(stages, stream, block, block_context(block), block_gate(block))
        else:
            stream, activated = _normalised(stages, stream, block.batch_norm, feeds_activated or i > 0)
            stages.append(Stage(block.linear, stream, activated))
            stream = len(stages) - 1
    feed_forward = len(made.blocks) > 0 and not hasattr(made.blocks[0], "linear_layers")
    stages.append(Stage(made.final_layer, stream, feed_forward or (feeds_activated and not len(made.blocks))))
    D = made.initial_layer.in_features
    return Net(D, stages, activation_name(activation), slice(1, None, 2), slice(0, None, 2), scale, numbers)


def _residual(stages: list[Stage], stream: int, block: Any, context: Any, gate: Any) -> int:
    norms = block.batch_norm_layers if block.use_batch_norm else (None, None)
    first, second = block.linear_layers
    source, _ = _normalised(stages, stream, norms[0], False)
    stages.append(Stage(first, source, True, context=context))
    source, _ = _normalised(stages, len(stages) - 1, norms[1], False)
    stages.append(Stage(second, source, True, stream, gate=gate))
    return len(stages) - 1


def _normalised(stages: list[Stage], source: int, norm: Any, activated: bool) -> tuple[int, bool]:
    """The stage to read behind a batch norm, and whether by its activations."""
    if norm is None:
        return source, activated
    stages.append(Stage(Diagonal(norm), source, activated))
    return len(stages) - 1, False
