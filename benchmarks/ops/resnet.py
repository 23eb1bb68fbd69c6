"""Encoder and decoder of the paper's model without their dense layers: our rows of residual blocks and plain torch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.case import OURS, Case, OnGpu, Way, Work, agrees, compiled, forward, gradients
from vlae_fast import VLAE, VLAEConfig, ops, reference
from vlae_fast.layers import plain_weights
from vlae_fast.ops.resnet.wiring import flat, flops, wiring
from vlae_fast.params import ResNetBlockParams

BASE = {"N": 64}
ENCODER, DECODER = "encoder", "decoder"


class Inputs:
    """Images of a network, and its blocks."""

    def __init__(self, network: str, N: int) -> None:
        model = VLAE(VLAEConfig.preset("paper"))
        net = getattr(model, network)
        output = model.decoder.output if network == DECODER else None
        self.x = torch.randn(N, *(model.decoder.shape if network == DECODER else (1, 28, 28)))
        self.blocks = [
            block._replace(**{k: v.detach() for k, v in block._asdict().items() if isinstance(v, Tensor)})
            for block in net.blocks.params(plain_weights(net), output)
        ]
        self.tensors, self.table = flat(self.blocks, wiring(self.x.shape, self.blocks))


def work(network: str, N: int) -> Work:
    """Multiplications with what lies outside the images included."""
    inputs = Inputs(network, 1)
    moved = sum(t.numel() for t in inputs.tensors) + N * (inputs.x[0].numel() + torch.tensor(inputs.table[-3:]).prod())
    return Work(flops((N, *inputs.x.shape[1:]), None, inputs.table) / 2, 4 * float(moved))


def way(
    op: Callable[..., Tensor],
    run: Callable[[Callable[..., Tensor]], Callable[..., Tensor]] = lambda function: function,
    layout: torch.memory_format = torch.contiguous_format,
) -> Way:
    """How torch runs the op, and how its images lie in memory."""

    def prepare(inputs: Inputs) -> tuple[Callable[..., Tensor], list[Tensor]]:
        def network(x: Tensor, *tensors: Tensor) -> Tensor:
            rest = iter(tensors)

            def fresh(block: ResNetBlockParams) -> ResNetBlockParams:
                fields = block._asdict()
                return block._replace(**{k: next(rest) for k, v in fields.items() if isinstance(v, Tensor)})

            return op(x, [fresh(block) for block in inputs.blocks])

        return run(network), [inputs.x.contiguous(memory_format=layout), *inputs.tensors]

    return prepare


WAYS = {
    OURS: way(ops.resnet),
    "torch eager": way(reference.resnet),
    "torch eager, channels last": way(reference.resnet, layout=torch.channels_last),
    "torch.compile": way(reference.resnet, compiled),
    "torch.compile, channels last": way(reference.resnet, compiled, torch.channels_last),
}


def cases(network: str) -> tuple[Case, ...]:
    common: dict[str, Any] = {
        "draw": lambda N: Inputs(network, N),
        "base": BASE,
        "axes": {"N": (1, 64, 256)},
        "compared": (BASE,),
        "gpu": OnGpu((BASE,), ("torch eager",)),
        "quick": lambda contender, size: "torch.compile" not in contender and size["N"] in (1, 64),
    }
    return (
        Case(
            op=f"resnet, {network}",
            contenders={name: forward(way) for name, way in WAYS.items()},
            work=lambda N: work(network, N),
            check=agrees(forward(WAYS["torch eager"]), 1e-4),
            **common,
        ),
        Case(
            op=f"resnet, {network} + gradients",
            contenders={name: gradients(way) for name, way in WAYS.items()},
            work=lambda N: work(network, N).with_gradients(),
            check=agrees(gradients(WAYS["torch eager"]), 1e-3),
            **common,
        ),
    )


CASES = (*cases(ENCODER), *cases(DECODER))
