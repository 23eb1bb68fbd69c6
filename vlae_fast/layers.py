"""Modules that hold parameters, weight-normalised (Salimans & Kingma 2016, arXiv:1602.07868): w = g * v / |v|.

A new layer has g = 1 and b = 0, only the log-scales of a flow have g = 0. A forward pass inside `initialization(model)`
sets g and b of every layer, one after the other, so that its outputs over the batch have mean 0 and a small standard
deviation.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vlae_fast import masks, ops, reference
from vlae_fast.config import PixelCNNSpec
from vlae_fast.params import MADEFlowParams, PixelCNNParams, ResNetBlockParams, resnet_block

__all__ = [
    "Layer",
    "Linear",
    "MADEFlow",
    "PixelCNN",
    "ResNet",
    "ResNetBlock",
    "Weights",
    "compute_pruned",
    "initialization",
    "plain_weights",
]

INIT_STD = 0.1
"""Standard deviation of a layer's first outputs (openai/iaf)."""


MAX_GAIN = 4.0
"""Largest first gain in encoder and decoder. Where several layers had larger ones, as for tiny images, most inputs of a
convolution being outside, rounding errors would become signal and the first steps would throw z far away."""
FEW_INPUTS = 512
"""Inputs of the largest matrix product in the paper's model, for which its step size was chosen."""


def _random(*shape: int) -> nn.Parameter:
    return nn.Parameter(0.05 * torch.randn(*shape))


class _Initializable(nn.Module):
    """Parameters whose names end in v, g and b: directions, gains and biases."""

    initializing = False

    def constants(self) -> dict[str, Tensor]:
        """Masks and degrees by name: no file holds what the sizes tell."""
        return {}

    def set_constants(self) -> None:
        """Makes attributes of `constants`, on the device and in the dtype of the parameters."""
        like = next(self.parameters())
        with torch.device(like.device):
            for name, value in self.constants().items():
                value = value.to(like.dtype) if value.is_floating_point() else value
                setattr(self, name, value)

    # No buffers, which others average: made anew after whatever moves or replaces the parameters, and moved beside
    # those of a replica (nn.DataParallel) as they are used.

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def apply(t: Tensor) -> Tensor:  # a stack of filters as one: torch's memory formats are for four axes
            return fn(t.flatten(0, 1)).unflatten(0, t.shape[:2]) if t.dim() == 5 else fn(t)

        moved = super()._apply(apply, recurse)
        self.set_constants()
        return moved

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        super()._load_from_state_dict(*arguments, **options)
        self.set_constants()

    def reset(self) -> None:
        """Sets g = 1 and b = 0."""
        for name, parameter in self.named_parameters(recurse=False):
            if name.endswith("g"):
                parameter.fill_(1.0)
            elif name.endswith("b"):
                parameter.zero_()

    @staticmethod
    def set_gain_and_bias(t: Tensor, g: Tensor, b: Tensor, std: float = INIT_STD, most: float = math.inf) -> Tensor:
        """Sets g, b [C] in place so that g * t + b has mean 0 and the given std over all axes of t but 1; returns it.

        An output that hardly varies over the batch gets g = `most`, one that does not vary g = 1; both are centred.
        """
        axes = [axis for axis in range(t.dim()) if axis != 1]
        shape = [1, -1] + [1] * (t.dim() - 2)
        mean, spread = t.mean(axes), t.std(axes, correction=0)
        g.copy_(torch.where(spread > 1e-6, (std / spread).clamp_max(most), 1.0))
        b.copy_(-g * mean)
        return g.view(shape) * t + b.view(shape)


def compute_pruned(module: nn.Module) -> None:
    """Runs the hooks by which torch.nn.utils.prune and its like compute a weight anew as its module is called.

    To be called before the weights of a module are read without a call of it.
    """
    for hook in module._forward_pre_hooks.values():
        if type(hook).__module__.startswith("torch.nn.utils."):
            hook(module, ())


@contextmanager
def initialization(model: nn.Module) -> Iterator[None]:
    """Within it a forward pass of `model` is its data-dependent initialisation.

    Raises ValueError where a gain or bias is no parameter of its own, so that it cannot be set.
    """
    modules = [module for module in model.modules() if isinstance(module, _Initializable)]
    for name, _ in (parameter for module in modules for parameter in module.named_parameters()):
        if re.search(r"[gb]_orig$|parametrizations\.\w*[gb]\.", name):
            raise ValueError(f"model: initialize it before its gains and biases are computed from others, like {name}")
    try:
        with torch.no_grad():
            for module in modules:
                module.reset()
                module.initializing = True
            yield
    finally:
        for module in modules:
            module.initializing = False


class Layer(_Initializable):
    """One convolution or matrix product. `axis` is the axis of v that counts the outputs."""

    def __init__(self, *v_shape: int, axis: int = 0) -> None:
        super().__init__()
        self.v = _random(*v_shape)
        self.g = nn.Parameter(torch.ones(v_shape[axis]))
        self.b = nn.Parameter(torch.zeros(v_shape[axis]))
        self.axis = axis

    def initialized(self, activations: Tensor) -> Tensor:
        """Sets g and b for the activations that v alone makes; returns g * activations."""
        y = self.set_gain_and_bias(activations, self.g, self.b, most=MAX_GAIN)
        return y - self.b.view(-1, *[1] * (activations.dim() - 2))


Weights = Mapping[Layer, Tensor]
"""The plain weights of some layers."""


def plain_weights(network: nn.Module) -> Weights:
    """Of all layers in a network, in one call."""
    layers = [module for module in network.modules() if isinstance(module, Layer)]
    for layer in layers:
        compute_pruned(layer)
    weights = ops.weight_norms([x.v for x in layers], [x.g for x in layers], [x.axis for x in layers])
    return dict(zip(layers, weights, strict=True))


class Linear(Layer):
    """[N, inputs] -> [N, outputs].

    A step of Adamax moves all entries of v alike, and an output by their sum: the more inputs, the further. Only v's
    direction counts, so a longer v makes steps shorter; they are as long as with FEW_INPUTS where there are more.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(outputs, inputs)
        with torch.no_grad():
            self.v.mul_(max(1.0, inputs / FEW_INPUTS) ** 0.5)

    def forward(self, x: Tensor, weights: Weights, pre_elu: bool = False) -> Tensor:
        """x, through ELU first if wanted."""
        if self.initializing:
            return self.initialized(ops.dense(x, weights[self], 0 * self.b, pre_elu=pre_elu)) + self.b
        return ops.dense(x, weights[self], self.b, pre_elu=pre_elu)


class ResNetBlock(nn.Module):
    """`skip(x) + 0.1 * conv2(elu(conv1(elu(x))))`, pre-activation (Kingma et al. 2016, app. B and C).

    A stride of 2 halves the image in conv1; `up_to` doubles it to that size in conv2; the skip is then a convolution of
    the same kind, else the identity.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, up_to: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.kind = "up" if up_to is not None else "down" if stride == 2 else "same"
        self.size = up_to
        self.conv1 = Layer(outputs, inputs, 3, 3)
        self.conv2 = Layer(outputs, outputs, 3, 3, axis=1 if self.kind == "up" else 0)
        self.skip = None
        if self.kind != "same":
            self.skip = Layer(inputs, outputs, 3, 3, axis=1) if self.kind == "up" else Layer(outputs, inputs, 3, 3)

    def params(self, weights: Weights) -> ResNetBlockParams:
        """Plain weights for the op."""
        layers = [self.conv1, self.conv2] + ([] if self.skip is None else [self.skip])
        tensors = [tensor for layer in layers for tensor in (weights[layer], layer.b)]
        return resnet_block(self.kind, tensors, self.size)


class ResNet(nn.ModuleList):
    """A row of ResNetBlocks."""

    def params(self, weights: Weights, output: Layer | None = None) -> list[ResNetBlockParams]:
        """Plain weights for the op, those of a last convolution behind them if there is one."""
        modules: list[Any] = [*self]
        blocks = [block.params(weights) for block in modules]
        return blocks if output is None else [*blocks, resnet_block("output", [weights[output], output.b])]

    def forward(self, x: Tensor, weights: Weights, output: Layer | None = None) -> Tensor:
        """[N, C, H, W] -> [N, K, H', W']."""
        blocks, modules = self.params(weights, output), [*self, output]
        if not any(module.initializing for module in self.modules() if isinstance(module, Layer)):
            return ops.resnet(x, blocks)

        def initialize(i: int, name: str, activations: Tensor) -> Tensor:
            layer: Any = output if blocks[i].kind == "output" else getattr(modules[i], name)
            initialized: Tensor = layer.initialized(activations)
            return initialized  # the reference adds the bias that was just set

        return reference.resnet(x, blocks, visit=initialize)


class MADEFlow(_Initializable):
    """T MADE steps over D variables with M hidden units in each of two layers."""

    def __init__(self, latent_size: int, hidden: int, steps: int, scale: bool) -> None:
        super().__init__()
        D, M, T, R = latent_size, hidden, steps, latent_size * (2 if scale else 1)
        self.hidden1_v, self.hidden2_v, self.output_v = _random(T, M, D), _random(T, M, M), _random(T, R, M)
        self.hidden1_g, self.hidden2_g, self.output_g = (nn.Parameter(torch.ones(T, n)) for n in (M, M, R))
        self.hidden1_b, self.hidden2_b, self.output_b = (nn.Parameter(torch.zeros(T, n)) for n in (M, M, R))
        with torch.no_grad():
            self.output_g[:, D:] = 0.0  # a new step does not scale: exp(s) of step upon step would overflow
        self.set_constants()

    degrees: Tensor
    """See `MADEFlowParams`."""

    def constants(self) -> dict[str, Tensor]:
        """Degrees, and the live entries of every row of the three weights."""
        (T, M, D), R = self.hidden1_v.shape, self.output_v.shape[1]
        degrees = masks.made_degrees(D, M)
        first, second, third = masks.made_live(degrees, D)
        live = {"hidden1": first.repeat(T), "hidden2": second.repeat(T), "output": third.repeat(T * R // D)}
        return {"degrees": degrees, **{f"{name}_live": rows for name, rows in live.items()}}

    def params(self) -> MADEFlowParams:
        """Plain weights for the ops."""
        compute_pruned(self)
        return MADEFlowParams(
            self._weight("hidden1"),
            self.hidden1_b,
            self._weight("hidden2"),
            self.hidden2_b,
            self._weight("output"),
            self.output_b,
            self.degrees.to(self.hidden1_b.device),
        )

    def _weight(self, name: str) -> Tensor:
        v, g, live = (getattr(self, f"{name}_{part}") for part in ("v", "g", "live"))
        return ops.weight_norm(v.flatten(0, 1), g.flatten(), live.to(v.device)).view_as(v)

    def forward(self, z: Tensor, hidden_context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Density direction: z [N, D], hidden_context [N, T, M] or None -> eps [N, D], log_det [N]."""
        if self.initializing:
            return reference.made_flow_forward(z, self.params(), hidden_context, self._initialize)
        return ops.made_flow_forward(z, self.params(), hidden_context)

    def inverse(self, eps: Tensor, hidden_context: Tensor | None = None) -> Tensor:
        """Sampling direction: eps [N, D] -> z [N, D], differentiable.

        Fed back on itself it wants torch.no_grad: a z that has a gradient keeps the plain weights of its call (7.5 MiB
        in the preset); with `ops.made_flow_inverse` and one `params()` for all calls each keeps its z alone.
        """
        return ops.made_flow_inverse(eps, self.params(), hidden_context)

    def _initialize(self, name: str, t: int, activations: Tensor) -> Tensor:
        g, b = getattr(self, f"{name}_g")[t], getattr(self, f"{name}_b")[t]
        # The first shifts are a tenth of other outputs, so that a step starts near the identity (openai/iaf).
        std = INIT_STD * INIT_STD if name == "output" else INIT_STD
        return self.set_gain_and_bias(activations, g, b, std) - b  # the reference adds the bias that was just set


class PixelCNN(_Initializable):
    """C channels, K context maps, L mask-B layers (tied: one v for all), P 1x1 blocks."""

    def __init__(
        self, channels: int, context_maps: int, layers: int, pointwise_blocks: int, tied: bool, spec: PixelCNNSpec
    ) -> None:
        super().__init__()
        C, K, L, P = channels, context_maps, layers, pointwise_blocks
        self.spec = spec
        self.input_v = _random(C, 1 + K, 3, 3)
        self.hidden_v = _random(min(1, L) if tied else L, C, C, 3, 3)
        self.pointwise_v = _random(P, 2, C, C)
        self.output_v = _random(1, C)
        shapes = ((C,), (L, C), (P, 2, C), (1,))
        self.input_g, self.hidden_g, self.pointwise_g, self.output_g = (nn.Parameter(torch.ones(s)) for s in shapes)
        self.input_b, self.hidden_b, self.pointwise_b, self.output_b = (nn.Parameter(torch.zeros(s)) for s in shapes)
        self.set_constants()

    input_mask: Tensor
    hidden_mask: Tensor

    def constants(self) -> dict[str, Tensor]:
        """The causal masks."""
        input_mask = torch.ones(self.input_v.shape[1:])  # context is known before any pixel: its channels stay
        input_mask[0] = masks.causal3x3("A", like=input_mask)
        return {"input_mask": input_mask, "hidden_mask": masks.causal3x3("B", like=input_mask)}

    def params(self) -> PixelCNNParams:
        """Plain weights for the ops."""
        compute_pruned(self)
        input_v = self.input_v * self.input_mask.to(self.input_v.device)
        hidden_v = self.hidden_v * self.hidden_mask.to(self.hidden_v.device)
        pointwise_v = self.pointwise_v.flatten(0, 2)
        first, hidden, pointwise, last = ops.weight_norms(
            [input_v, hidden_v.flatten(0, 1), pointwise_v, self.output_v],
            [self.input_g, hidden_v.new_ones(hidden_v.shape[:2].numel()), self.pointwise_g.flatten(), self.output_g],
            [0, 0, 0, 0],
        )
        return PixelCNNParams(
            first[:, :1],
            first[:, 1:],
            self.input_b,
            hidden.view_as(self.hidden_v),
            self.hidden_g,
            self.hidden_b,
            pointwise.view_as(self.pointwise_v),
            self.pointwise_b,
            last[0],
            self.output_b,
        )

    def logits(self, x: Tensor, context: Tensor | None) -> Tensor:
        """[N, 1, H, W]; in an initialisation, the pass that sets gains and biases."""
        if self.initializing:
            return reference.pixelcnn_logits(x, context, self.params(), self.spec, self._initialize)
        return ops.pixelcnn_logits(x, context, self.params(), self.spec)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Log-likelihood of binary images, [N] nats."""
        return ops.pixelcnn_log_prob(x, context, self.params(), self.spec)

    def sample(
        self, context: Tensor | None, uniforms: Tensor, temperature: float = 1.0, given: Tensor | None = None
    ) -> Tensor:
        """Binary images [N, 1, H, W], see `ops.pixelcnn_sample`."""
        return ops.pixelcnn_sample(context, self.params(), uniforms, self.spec, temperature=temperature, given=given)

    def _initialize(self, name: str, index: int, activations: Tensor) -> Tensor:
        C = activations.shape[1]
        g = getattr(self, f"{name}_g").view(-1, C)[index]
        b = getattr(self, f"{name}_b").view(-1, C)[index]
        # As in openai/iaf, masked convolutions start at standard deviation 1; the logits near 0.
        normalised = self.set_gain_and_bias(activations, g, b, INIT_STD if name == "output" else 1.0)
        # The reference adds the bias that was just set, and multiplies hidden layers by their gain first.
        return activations if name == "hidden" else normalised - b[:, None, None]
