"""The claim: drawing a batch costs no more than scoring it once in plain torch.

The contenders of a group do different work on purpose: `sample` draws N images from the paper's model with the compiled
bodies, `score` and `score-compiled` compute the bound of N images with the reference ops, eagerly and under
torch.compile; `score-native` is the bound with the compiled bodies.
"""

import pytest
import torch

from vlae_fast import VLAE, VLAEConfig, use_backend


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = VLAE(VLAEConfig.preset("paper")).eval()
    model.initialize((torch.rand(256, 1, 28, 28) < 0.2).float())
    return model


@pytest.mark.parametrize("contender", ["sample", "score-native", "score", "score-compiled"])
@pytest.mark.parametrize("N", [1, 16, 256])
def test_sample_and_score(benchmark, model, N, contender):
    benchmark.group = f"model N={N}"
    benchmark.extra_info |= {"contender": contender, "images": N}
    images, noise = (torch.rand(N, 1, 28, 28) < 0.2).float(), torch.randn(N, model.config.latent_size)
    if contender == "sample":
        drawn = benchmark(model.sample, N)
        assert drawn.shape == (N, 1, 28, 28)
        with torch.no_grad():
            assert torch.isfinite(model.elbo(drawn, noise=noise).elbo).all()
        return
    score = torch.compile(model.elbo, dynamic=False) if contender == "score-compiled" else model.elbo
    with torch.no_grad(), use_backend("auto" if contender == "score-native" else "reference"):
        score(images, noise=noise)  # compiles
        bound = benchmark(score, images, noise=noise)
        expected = model.elbo(images, noise=noise)
    assert torch.allclose(bound.elbo, expected.elbo, rtol=1e-4)
