"""What every processor with fused multiply-add computes alike, bit for bit: ops, gradients, models.

`make conformance` runs the compiled code alone, also on aarch64.
"""

import os
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from conftest import with_threads
from op_cases import CASES, DIFFERENTIABLE, mapped, outputs, tensors_of
from test_degenerate import TINY, VARIANTS
from test_devices import SIZES

from vlae_fast import VLAE, native, ops

FUSED = [isa for isa in native.usable_isas() if isa != "baseline"]
pytestmark = pytest.mark.skipif(len(FUSED) < 2, reason="needs two instruction sets with fused multiply-add")


def results(op, arguments):
    if op not in DIFFERENTIABLE:
        return [*outputs(getattr(ops, op)(**arguments))]
    leaves = mapped(arguments, lambda t: t.clone().requires_grad_())
    found = outputs(getattr(ops, op)(**leaves))
    upstream = [torch.linspace(-1, 2, t.numel()).view(t.shape) for t in found]
    options = dict(allow_unused=True, materialize_grads=True)
    return [*found, *torch.autograd.grad(found, tensors_of(leaves), upstream, **options)]


@pytest.mark.parametrize("op", CASES)
def test_ops_and_their_gradients(op):
    for size in next(sizes for stem, sizes in SIZES.items() if op.startswith(stem)).values():
        arguments = CASES[op](**size)
        found = []
        for isa in FUSED:
            with native.use_isa(isa):
                found.append(results(op, arguments))
        assert all(map(torch.equal, *found))


def everything(model, images, noise):
    with torch.no_grad():
        found = [model.sample(3, seed=1), model.log_likelihood(images, samples=5)]
        found += model.elbo(images, noise=noise)
        if model.config.conditioning == "latent":
            found += [model.reconstruct(images), *model.sampled_bounds(images, 3)]
            if model.config.posterior == "gaussian":
                base = model.encode(images).base_dist
                found += [base.loc, base.scale]
    return found


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_models_for_any_instruction_set_batch_and_threads(fields):
    model = VLAE(replace(TINY, **fields))
    n, config = 7, model.config
    images = (torch.rand(n, 1, config.height, config.width) < 0.5).float()
    noise = torch.randn(n, config.latent_size)
    expected = None
    for isa in FUSED:
        with native.use_isa(isa):
            for _ in with_threads((1, 2)):
                found = everything(model, images, noise)
                expected = expected or found
                assert all(map(torch.equal, found, expected))
    with torch.no_grad():
        part = model.elbo(images[2:4], noise=noise[2:4])
    assert all(torch.equal(a, b[2:4]) for a, b in zip(part, model.elbo(images, noise=noise), strict=True))


def hash_of_models():
    """Of all that two models compute, with weights, images and noise that torch draws alike everywhere."""
    torch.manual_seed(0)
    digest = sha256()
    for decoder in ("pixelcnn", "factorized"):
        model = VLAE(replace(TINY, decoder=decoder))
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.rand(p.shape) - 0.5)
        images = (torch.rand(5, 1, model.config.height, model.config.width) < 0.5).float()
        noise = 4 * torch.rand(5, model.config.latent_size) - 2
        given = torch.randint(-1, 2, (5, model.config.height, model.config.width), dtype=torch.int8)
        for found in (*everything(model, images, noise), model.inpaint(given, rounds=3)):
            digest.update(found.numpy().tobytes())
    return digest.hexdigest()


def test_models_for_any_instruction_set_of_torch():
    """torch's own kernels round differently on each: nothing of a result may come from those that do."""
    code = "import test_same_bits; print(test_same_bits.hash_of_models())"
    found = set()
    for capability in ("default", "avx2", "avx512"):
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "PYTHONPATH": str(Path(__file__).parent)}
        result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        found.add(result.stdout)
    assert len(found) == 1
