"""Every op, every variant of the model and every public class at degenerate sizes, forward and backward.

Values and gradients are those of the float64 reference, and the same eager and compiled by torch, in the compiled body
and in the reference. `make test` makes two sizes at a time degenerate and compiles a case an op; `python
tests/test_degenerate.py` goes through all products and prints the number of failures.
"""

import itertools
import random
import tempfile
import traceback
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_close, made_params, pixelcnn_params
from op_cases import DIFFERENTIABLE, block, dense_arguments, mapped, net_arguments, outputs, tensors_of

from vlae_fast import (
    VLAE,
    Dataset,
    PixelCNNSpec,
    TrainConfig,
    Trainer,
    VLAEConfig,
    evaluate,
    ops,
    plots,
    use_backend,
)
from vlae_fast.data import Split

DEGENERATE = (0, 1)
UNROLLED = ("pixelcnn_sample", "made_flow_inverse", "made_inverse")
"""Ops whose reference goes variable by variable."""


def products(most, **ordinary):
    """Sizes of which at most `most` are degenerate, the others as given."""
    for count in range(most + 1):
        for names in itertools.combinations(ordinary, count):
            for values in itertools.product(DEGENERATE, repeat=count):
                yield ordinary | dict(zip(names, values, strict=True))


def maybe(tensor):
    """An optional argument."""
    return tensor if torch.rand(()) < 0.5 else None


def conv_cases(most):
    for s in products(most, N=2, C=3, K=2, H=3, W=4):
        N, C, K, H, W = s.values()
        for mask, pre_elu in itertools.product("AB", (False, True)):
            optional = dict(gain=maybe(torch.randn(K)), residual=maybe(torch.randn(N, K, H, W)))
            arguments = dict(x=torch.randn(N, C, H, W), weight=torch.randn(K, C, 3, 3), bias=torch.randn(K))
            yield arguments | optional | dict(mask=mask, pre_elu=pre_elu, residual_scale=0.5)


def pixelcnn_cases(most):
    """Arguments of all three ops of a PixelCNN."""
    for s in products(most, N=2, C=3, K=2, L=4, P=2, H=3, W=4):
        N, C, K, L, P, H, W = s.values()
        convs = random.choice([1, 2]) if L % 2 == 0 else 1
        after = [random.randrange(L // convs) for _ in range(P)] if L else []
        if len(after) < P:  # there is no residual block that a 1x1 block could follow
            continue
        spec = PixelCNNSpec(0.5, convs, tuple(after), random.choice([1, 2]))
        yield dict(
            x=torch.randint(0, 2, (N, 1, H, W)).float(),
            context=torch.randn(N, K, H, W) if K else maybe(torch.randn(N, K, H, W)),
            params=pixelcnn_params(C=C, K=K, L=L, P=P, S=random.choice([1, L])),
            spec=spec,
            given=maybe(torch.randint(-1, 2, (N, H, W), dtype=torch.int8)),
        )


def scoring_cases(most):
    for arguments in pixelcnn_cases(most):
        del arguments["given"]
        yield arguments


def sample_cases(most):
    for arguments in pixelcnn_cases(most):
        yield arguments | dict(uniforms=torch.rand_like(arguments.pop("x")[:, 0]), temperature=0.7)


def flow_cases(most, name="z"):
    for s in products(most, N=2, D=3, M=5, T=2):
        N, D, M, T = s.values()
        if M and not D:  # there are no degrees
            continue
        for scale in (False, True):
            degrees = torch.randint(0, max(D, 1), (M,)).sort().values
            params = made_params(D=D, M=M, T=T, scale=scale, degrees=degrees)
            yield {name: torch.randn(N, D), "params": params, "hidden_context": maybe(torch.randn(N, T, M))}


def net_cases(most, name="x"):
    for s in products(most, N=2, D=3, M=5):
        for activation, scale, numbers in (
            ("relu", "none", ()),
            ("elu", "soft_clip", (3.0,)),
            ("silu", "gated", (2.0,)),
        ):
            options = dict(activation=activation, scale=scale, numbers=numbers, gated=random.random() < 0.5)
            arguments = net_arguments(name, **s, **options)
            yield arguments | ({} if options["gated"] else {"gates": None})


def norm_cases(most):
    for s in products(most, R=3, n=5):
        R, n = s.values()
        yield dict(v=torch.randn(R, n), g=torch.randn(R), live=torch.randint(0, n + 1, (R,)))


def norms_cases(most):
    for s in products(most, R=3, n=5, m=2):
        shape = [*s.values()]
        for axis in range(3):
            shapes = (shape, shape[axis:], shape[axis : axis + 1])
            axes = [axis, 0, 0]
            v = [torch.randn(n) for n in shapes]
            yield dict(v=v, g=[torch.randn(shape[axis]) for _ in axes], axes=axes)


def exp_cases(most):
    yield dict(x=torch.randn(()))
    for s in products(most, n=5, m=3):
        yield dict(x=torch.randn(*s.values()))


def bernoulli_cases(most):
    yield dict(x=torch.ones(()), logits=torch.randn(()))
    for s in products(most, n=5, m=3):
        yield dict(x=torch.rand(*s.values()), logits=torch.randn(*s.values()))


def dense_cases(most):
    for s in products(most, N=2, C=3, K=4):
        yield dense_arguments(**s)


def resnet_cases(most):
    for s in products(most, N=2, C=3, M=2, K=4, H=3, W=4):
        N, C, M, K, H, W = s.values()
        if 0 in (H, W):  # there is no pixel
            continue
        for blocks in (
            [block("output", C, K=K)],
            [block("same", C, M, C)],
            [block("down", C, M, K), block("down", K, M, C)],
            [block("up", C, M, K), block("up", K, C, M, (4 * H - 1, 4 * W - 1)), block("output", M, K=1)],
        ):
            yield dict(x=torch.randn(N, C, H, W), blocks=blocks, residual_scale=random.choice([0.0, 0.5]))


CASES = {
    "masked_conv3x3": conv_cases,
    "pixelcnn_logits": scoring_cases,
    "pixelcnn_log_prob": scoring_cases,
    "pixelcnn_sample": sample_cases,
    "made_flow_forward": flow_cases,
    "made_flow_inverse": lambda most: flow_cases(most, "eps"),
    "made_forward": net_cases,
    "made_inverse": lambda most: net_cases(most, "y"),
    "weight_norm": norm_cases,
    "weight_norms": norms_cases,
    "exp": exp_cases,
    "bernoulli_log_prob": bernoulli_cases,
    "dense": dense_cases,
    "resnet": resnet_cases,
}


def gradients(results, leaves):
    """Of the sum of the results, each weighted by other numbers; zeros for what they do not depend on."""
    value = sum((t * torch.linspace(-1, 2, t.numel(), dtype=t.dtype).view(t.shape)).sum() for t in results)
    return torch.autograd.grad(value, leaves, materialize_grads=True)


def run(function, arguments, differentiable=True):
    """Values and gradients."""
    if not differentiable:
        with torch.no_grad():
            return outputs(function(**arguments)), ()
    leaves = mapped(arguments, lambda t: t.detach().clone().requires_grad_())
    results = outputs(function(**leaves))
    return results, gradients(results, tensors_of(leaves))


def check_op(op, arguments):
    function, differentiable = getattr(ops, op), op in DIFFERENTIABLE
    values, grads = run(function, arguments, differentiable)
    with use_backend("reference"):
        exact_values, exact_grads = run(function, mapped(arguments, torch.Tensor.double), differentiable)
    for actual, expected in zip(values, exact_values, strict=True):
        assert_close(actual, expected, scale=0.1)
    for actual, expected in zip(grads, exact_grads, strict=True):
        assert_close(actual, expected, "gradient", scale=0.1)


TINY = replace(VLAEConfig.preset("tiny"), height=5, width=4, latent_size=3, flow_hidden=5, encoder_channels=(2, 3))
VARIANTS = [
    dict(),
    dict(pointwise_blocks=0),
    dict(pixelcnn_layers=0, pointwise_blocks=0),
    dict(pixelcnn_layers=1, pixelcnn_channels=1, tied=False),
    dict(pixelcnn_layers=4, pointwise_blocks=2, tied=False, wiring=PixelCNNSpec(0.1, 2, (0, 0), 2)),
    dict(context_maps=1, flow_scale=True),
    dict(conditioning="none"),
    dict(conditioning="none", pointwise_blocks=0),
    dict(conditioning="map"),
    dict(decoder="factorized"),
    dict(posterior="iaf"),
    dict(posterior="iaf", prior="gaussian", flow_scale=True),
    dict(latent_size=1, flow_hidden=1, flow_steps=1, dense_units=1),
    dict(latent_size=8, flow_hidden=3),
    dict(height=1, width=1),
    dict(height=1, width=7),
    dict(height=2, width=1, encoder_channels=(1,)),
]


def check_model(fields, n=2):
    model = VLAE(replace(TINY, **fields))
    images = (torch.rand(n, 1, model.config.height, model.config.width) < 0.5).float()
    noise = torch.randn(n, model.config.latent_size)

    def elbo(images, noise):
        bound = model.elbo(images, noise=noise)
        results = (bound.elbo, bound.kl)
        return [t.detach() for t in results], gradients(results, list(model.parameters()))

    values, grads = elbo(images, noise)
    drawn = model.sample(n)
    model.double()
    with use_backend("reference"):
        exact_values, exact_grads = elbo(images.double(), noise.double())
        assert torch.equal(model.sample(n), drawn.double())  # ties are improbable in so few pixels
    for actual, expected in zip([*values, *grads], [*exact_values, *exact_grads], strict=True):
        assert_close(actual, expected, "network gradient", scale=0.1)


def failures(check, cases):
    """A line for each case that fails."""
    found = []
    for case in cases:
        try:
            check(case)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            sizes = mapped(case, lambda t: f"float{list(t.shape)}")
            found.append(f"{type(error).__name__}: {error} (line {where.lineno} of {where.filename}) for {sizes}")
    return found


@pytest.mark.parametrize("op", CASES)
def test_op(op):
    random.seed(op)
    assert failures(lambda case: check_op(op, case), CASES[op](2)) == []


def check_compiled(op, arguments, backend="aot_eager"):
    """The graph of the compiled body, and that of the reference, where it does not unroll draw by draw."""
    differentiable, function = op in DIFFERENTIABLE, getattr(ops, op)
    for body in ("auto",) if op in UNROLLED else ("auto", "reference"):
        torch.compiler.reset()
        with use_backend(body):
            found = run(torch.compile(function, fullgraph=True, backend=backend), arguments, differentiable)
            expected = run(function, arguments, differentiable)
        for actual, wanted in zip((*found[0], *found[1]), (*expected[0], *expected[1]), strict=True):
            assert torch.equal(actual, wanted) if body == "auto" else torch.allclose(actual, wanted, 1e-4, 1e-5)


def test_every_op_is_here():
    assert set(CASES) == {name for name in ops.__all__ if name.islower()} - {"use_backend"}


@pytest.mark.parametrize("op", CASES)
def test_compiled_op(op):
    """One of them; it is the tracing that takes seconds."""
    random.seed(op)
    assert failures(lambda case: check_compiled(op, case), [random.choice([*CASES[op](1)])]) == []


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_model(fields):
    check_model(fields)


def test_model_with_an_empty_batch():
    check_model({}, n=0)


def check_classes(fields, n=2):
    """What else is public, around a model of these sizes: distributions, data, trainings, evaluations, pictures."""
    config = replace(TINY, **fields)
    images = (torch.rand(3 * n, 1, config.height, config.width) < 0.5).float()
    pixels = np.packbits(images.flatten(1).numpy().astype(bool), axis=1)
    parts = (Split(pixels[i : i + n], config.height, config.width, dynamic=False) for i in range(0, 3 * n, n))
    data = Dataset("bits", *parts)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        run = Trainer(config, TrainConfig(batch_size=1), data, out, quiet=True)
        assert run.run(epochs=1)
        model = VLAE.from_pretrained(out)
        found = evaluate(model, data.test, samples=1, folder=out)
        assert found.image_nll_nats.isfinite().all()
        assert found.minus(evaluate(model, data.test, samples=1)).mean == 0
        plots.pairs(images[:n], model.sample(n), out / "p.png", columns=1)
    given = torch.full((n, config.height, config.width), -1, dtype=torch.int8)
    assert model.inpaint(given, rounds=1).shape == images[:n].shape
    if config.conditioning != "latent":
        return
    for distribution in (model.prior, model.encode(images[:n]), model.encode(images[:1])):
        for shape in ((), (1,), (2, 1)):
            z = distribution.sample(shape).requires_grad_()
            log_prob = distribution.log_prob(z)
            assert log_prob.shape == (*shape, *distribution.batch_shape)
            assert all(t.isfinite().all() for t in (log_prob, *torch.autograd.grad(log_prob.sum(), z)))
    nothing = model.encode(images[:0]).sample((2,))  # whose log_prob torch's own distributions refuse
    assert model.decode(nothing.flatten(0, 1)).shape == (0, 1, config.height, config.width)


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_classes(fields):
    check_classes(fields)


if __name__ == "__main__":
    torch.manual_seed(0)
    found = [line for op in CASES for line in failures(lambda case, op=op: check_op(op, case), CASES[op](7))]
    found += failures(check_model, VARIANTS)
    found += failures(check_classes, VARIANTS)
    for op in CASES:
        found += failures(lambda case, op=op: check_compiled(op, case), CASES[op](1))
        found += failures(lambda case, op=op: check_compiled(op, case, "inductor"), [*CASES[op](1)][:2])
    print(*found, f"{len(found)} failures", sep="\n")
