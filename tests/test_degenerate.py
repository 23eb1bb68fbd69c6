"""Every op and every variant of the model at degenerate sizes: values and gradients against the float64 reference.

`make test` makes two sizes at a time degenerate; `python tests/test_degenerate.py` goes through all products and prints
the number of failures.
"""

import itertools
import random
import traceback
from dataclasses import replace

import pytest
import torch
from conftest import assert_close, made_params, pixelcnn_params
from op_cases import DIFFERENTIABLE, mapped, net_arguments, outputs, tensors_of

from vlae_fast import VLAE, PixelCNNSpec, VLAEConfig, ops, use_backend

DEGENERATE = (0, 1)


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


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_model(fields):
    check_model(fields)


def test_model_with_an_empty_batch():
    check_model({}, n=0)


def compiled_cases():
    """A case of each op that its graph must get right."""
    without_blocks = next(case for case in scoring_cases(1) if len(case["params"].pointwise_weight) == 0)
    without_channels = next(case for case in conv_cases(1) if case["weight"].numel() == 0)
    without_steps = next(case for case in flow_cases(1) if len(case["params"].weight1) == 0)
    without_rows = next(case for case in norm_cases(1) if len(case["v"]) == 0)
    return [
        ("pixelcnn_log_prob", without_blocks),
        ("pixelcnn_logits", without_blocks),
        ("masked_conv3x3", without_channels),
        ("made_flow_forward", without_steps),
        ("weight_norm", without_rows),
    ]


def check_compiled(op, arguments, backend="aot_eager"):
    compiled = torch.compile(getattr(ops, op), fullgraph=True, backend=backend)
    for actual, expected in zip(run(compiled, arguments), run(getattr(ops, op), arguments), strict=True):
        assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize("case", compiled_cases(), ids=lambda case: case[0])
def test_compiled_op(case):
    check_compiled(*case)


if __name__ == "__main__":
    torch.manual_seed(0)
    found = [line for op in CASES for line in failures(lambda case, op=op: check_op(op, case), CASES[op](7))]
    found += failures(check_model, VARIANTS)
    found += failures(lambda case: check_compiled(*case), compiled_cases())
    found += failures(lambda case: check_compiled(*case, "inductor"), compiled_cases()[:1])
    print(*found, f"{len(found)} failures", sep="\n")
