"""Transforms and flows of other libraries with weights that matter, and how often ours take over."""

from functools import partial

import pytest
import torch
from torch import nn

from vlae_fast import ops
from vlae_fast.accelerate import run

D = 6


def randomised(module, seed=0):
    """Weights that matter: some libraries start near the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            scale = 0.6 / max(1, p.shape[-1]) ** 0.5 if p.dim() > 1 else 0.3
            p.copy_(torch.randn(p.shape, generator=generator) * scale)
        for b in module.modules():
            if isinstance(b, nn.BatchNorm1d):
                b.running_mean.normal_(generator=generator)
                b.running_var.uniform_(0.5, 2, generator=generator)
    return module.eval()


def nflows(seed=0, **options):
    from nflows.transforms import MaskedAffineAutoregressiveTransform

    return randomised(MaskedAffineAutoregressiveTransform(**{"features": D, "hidden_features": 20} | options), seed)


def normflows(**options):
    from normflows.flows import MaskedAffineAutoregressive

    return randomised(MaskedAffineAutoregressive(**{"features": D, "hidden_features": 20} | options))


def zuko(**options):
    from zuko.flows.autoregressive import MaskedAutoregressiveTransform

    return randomised(MaskedAutoregressiveTransform(**{"features": D} | options))


def pyro(context=0, hidden=(30,), stable=False, **options):
    from pyro.distributions import transforms
    from pyro.nn import AutoRegressiveNN, ConditionalAutoRegressiveNN

    if context:
        net = ConditionalAutoRegressiveNN(D, context, list(hidden), **options)
        return randomised(transforms.ConditionalAffineAutoregressive(net, stable=stable))
    return randomised(transforms.AffineAutoregressive(AutoRegressiveNN(D, list(hidden), **options), stable=stable))


def maf(D=7, steps=3, context=None, random=True):
    """As in sbi: permutations behind the steps, and standardisation before; the composites nested."""
    from nflows.transforms import CompositeTransform, PointwiseAffineTransform, RandomPermutation, ReversePermutation

    torch.manual_seed(5)
    between = RandomPermutation if random else ReversePermutation
    options = dict(features=D, context_features=context, use_residual_blocks=not random, activation=torch.tanh)
    parts = [part for i in range(steps) for part in (nflows(**options, seed=i), between(D))]
    return CompositeTransform([PointwiseAffineTransform(0.3, 1.7), CompositeTransform(parts)]).eval()


def zuko_maf(D=7, context=0, seed=0, **options):
    from zuko.flows import MAF

    return randomised(MAF(D, context, **{"transforms": 3} | options), seed)


def undone(flow, y, context):
    """What a whole flow of nflows or zuko makes of noise, and a log-determinant."""
    if type(flow).__module__.startswith("nflows"):
        return flow.inverse(y, context)
    transform = flow(context).transform
    return transform.inv(y), transform.inv.call_and_ladj(y)[1] if len(y) else torch.zeros(0)  # it knows no empty ones


FLOWS = {
    "nflows, random permutations": (maf, {}, 0),
    "nflows, reversed": (partial(maf, random=False), {}, 0),
    "nflows, one step": (maf, {"steps": 1}, 0),
    "nflows, context": (maf, {"context": 4}, 4),
    "zuko": (zuko_maf, {}, 0),
    "zuko, random order": (zuko_maf, {"randperm": True}, 0),
    "zuko, context": (zuko_maf, {"context": 3, "residual": True}, 3),
}


@pytest.fixture
def calls(monkeypatch):
    """An entry for each call of the op, and for each of the kernel alone, where no gradient is wanted."""
    found = []

    def counted(function):
        return lambda *arguments, **options: (found.append(1), function(*arguments, **options))[1]

    monkeypatch.setattr(ops, "made_inverse", counted(ops.made_inverse))
    monkeypatch.setattr(run, "transform", counted(run.transform))
    return found
