"""Every body of masked_conv3x3 against the float64 meaning, on sizes off and on the fast path, NaN around all."""

import torch
from bodies import ISAS, TRITON, every, every_case
from conftest import assert_close, with_threads
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_cases import conv_tensors

from vlae_fast import reference

BODIES = (*ISAS, TRITON)
# (N, C, K, H, W), mask, pre_elu, gain, residual, residual_scale
CASES = {
    str(case): case
    for case in [
        ((2, 12, 12, 5, 10), "B", True, True, True),
        ((1, 1, 1, 1, 1), "A", False, True, True),
        ((1, 1, 1, 1, 1), "B", True, False, False),
        ((3, 2, 3, 17, 23), "A", True, True, False),
        ((3, 3, 2, 16, 32), "B", False, False, True),
        ((2, 5, 14, 3, 4), "B", True, True, True),
        ((1, 33, 1, 5, 3), "A", False, True, False),
        ((1, 3, 5, 1, 300), "B", True, False, True),
        ((2, 2, 4, 300, 1), "A", True, True, True),
        ((257, 2, 1, 2, 3), "B", True, True, True),
        ((700, 1, 2, 1, 1), "A", True, True, True),
        ((0, 3, 4, 5, 6), "B", True, True, True),
    ]
}
SHAPES = [
    (3, 12, 12, 28, 28),
    (1, 1, 1, 1, 1),
    (33, 7, 16, 17, 23),
    (2, 20, 33, 29, 3),
    (1, 3, 5, 1, 300),
    (257, 2, 4, 5, 1),
    (0, 3, 4, 5, 6),
]
LARGE = {
    str(case): case
    for case in [
        (shape, mask, fused, fused, fused, 0.7 if fused else 1.0)
        for shape in SHAPES
        for fused in (True, False)
        for mask in "AB"
    ]
}


def check(body, shape, mask, pre_elu, gain, residual, scale=0.7):
    """Values and all gradients against autograd through the float64 reference."""
    options = {"mask": mask, "pre_elu": pre_elu, "residual_scale": scale}
    tensors = conv_tensors(*shape, gain, residual)
    leaves = [None if t is None else t.double().requires_grad_() for t in tensors]
    expected = reference.masked_conv3x3(*leaves[:3], gain=leaves[3], residual=leaves[4], **options)
    x, weight, bias, gain, residual = body.put(tensors)
    assert_close(body.masked_conv3x3(x, weight, bias, gain, residual, *options.values()), expected.detach())

    dy = torch.randn(expected.shape)
    wanted = torch.autograd.grad(expected, [t for t in leaves[:4] if t is not None], dy.double())
    gradients = body.masked_conv3x3_backward(body.put(dy), x, weight, gain, *options.values())
    for actual, gradient in zip(gradients, wanted, strict=gain is not None):
        assert_close(actual, gradient, "gradient")
    forbidden = 4 if mask == "A" else 5
    assert (gradients[1].flatten(2)[..., forbidden:] == 0).all()


@every_case(CASES, *BODIES, large=LARGE)
def test_equals_the_reference(body, case):
    check(body, *case)


@every(*ISAS)
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.tuples(*(st.integers(1, high) for high in (5, 26, 26, 12, 40))),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from("AB"),
)
def test_equals_the_reference_at_any_size(body, shape, gain, residual, pre_elu, mask):
    check(body, shape, mask, pre_elu, gain, residual)


@every(*BODIES)
def test_same_bits_for_any_batch_and_threads(body):
    N = 17 if body.name in ISAS else 6
    x, weight, bias, gain, residual = body.put(conv_tensors(N, 5, 6, 9, 8))
    dy, mode = body.put(torch.randn(N, 6, 9, 8)), ("B", True, 0.7)

    def run(part=slice(None)):
        y = body.masked_conv3x3(x[part], weight, bias, gain, residual[part], *mode)
        return y, *body.masked_conv3x3_backward(dy[part], x[part], weight, gain, *mode)

    whole = run()
    for _ in with_threads(body.threads):
        assert all(map(torch.equal, run(), whole))
    for part in (slice(0, 1), slice(1, 7), slice(7, N)) if body.name in ISAS else (slice(2, 5),):
        y, dx, *_ = run(part)
        assert torch.equal(y, whole[0][part])
        assert torch.equal(dx, whole[1][part])
