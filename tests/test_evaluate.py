"""Evaluation: figures against their definitions, cut short and gone on with, models compared image by image."""

import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

from vlae_fast import VLAE, VLAEConfig, checkpoint, evaluate, latent, rounds
from vlae_fast.data import Split

TINY = replace(VLAEConfig.preset("tiny"), height=6, width=5)
N, SAMPLES = 40, 7


@pytest.fixture(scope="module")
def split():
    bits = np.random.default_rng(0).random((N, 30)) < 0.3
    return Split(np.packbits(bits, axis=1), 6, 5, False)


def model(seed=0, **changes):
    torch.manual_seed(seed)
    made = VLAE(replace(TINY, **changes))
    made.initialize((torch.rand(64, 1, 6, 5) < 0.3).float())
    return made


def run(made, split, folder=None, **options):
    return evaluate.evaluate(made, split, **{"samples": SAMPLES, "folder": folder} | options)


def test_figures_are_what_their_names_say(split):
    made = model()
    result = run(made, split, seed=3)
    reconstruction, kl = made.sampled_bounds(split.fixed(), SAMPLES, seed=3)
    weights = (reconstruction - kl).exp()
    torch.testing.assert_close(result.image_nll_nats, -weights.mean(1).log())
    torch.testing.assert_close(result.image_nll_nats, -made.log_likelihood(split.fixed(), samples=SAMPLES, seed=3))
    ess = weights.sum(1) ** 2 / (weights**2).sum(1) / SAMPLES
    assert result.effective_sample_size.mean == pytest.approx(ess.mean().item())
    assert result.effective_sample_size.standard_error == pytest.approx(ess.std().item() / math.sqrt(N))
    assert 1 / SAMPLES <= result.effective_sample_size.mean <= 1
    assert result.negative_elbo_nats.mean == pytest.approx((kl - reconstruction).mean().item())
    assert result.kl_nats.mean == pytest.approx(kl.mean().item())
    assert result.latent_size == TINY.latent_size
    assert f"at most log {N}" in str(result)


def test_active_units():
    mean = torch.randn(1000, 4) * torch.tensor([1.0, 0.2, 0.05, 0.0]) + 3
    assert latent.active_units(mean) == 2
    assert latent.active_units(mean[:1]) is None


def test_mutual_information_against_every_pair(monkeypatch):
    monkeypatch.setattr(latent, "_PAIRS", 60)  # several blocks of rows
    mean, std = torch.randn(50, 3), torch.rand(50, 3) + 0.1
    normals, _ = latent.noise.normals_and_uniforms(5, latent.noise.POSTERIOR, 0, 50, 3)
    posterior = Independent(Normal(mean.double(), std.double()), 1)
    z = mean.double() + std.double() * normals
    pairs = posterior.log_prob(z[:, None])
    wanted = (pairs.diagonal() - pairs.logsumexp(1) + math.log(50)).mean().item()
    assert latent.mutual_information_nats(mean, std, 5) == pytest.approx(wanted, rel=1e-9)


def test_mutual_information_of_codes_that_say_all_or_nothing():
    far = 100 * torch.arange(32.0)[:, None].expand(32, 2)
    assert latent.mutual_information_nats(far, torch.ones(32, 2), 0) == pytest.approx(math.log(32))
    assert latent.mutual_information_nats(torch.zeros(32, 2), torch.ones(32, 2), 0) == pytest.approx(0, abs=1e-9)
    assert latent.mutual_information_nats(far[:1], torch.ones(1, 2), 0) == pytest.approx(0, abs=1e-9)


def test_mutual_information_of_a_linear_gaussian():
    """z = x + noise of variance 1, x normal of variance 3, in two dimensions: I = 2 * log(4) / 2."""
    mean = torch.randn(4000, 2) * math.sqrt(3)
    assert latent.mutual_information_nats(mean, torch.ones(4000, 2), 0) == pytest.approx(math.log(4), abs=0.05)


@pytest.mark.parametrize("conditioning", ["none", "map"])
def test_without_a_latent_code_its_figures_are_absent(split, conditioning):
    result = run(model(conditioning=conditioning), split)
    content = result.to_dict()
    for name in ("reconstruction_nats", "kl_nats", "kl_bits", "effective_sample_size", "active_units"):
        assert content[name] is None
    assert content["mutual_information_nats"] is content["latent_size"] is content["warning"] is None
    assert result.nll_nats.mean == pytest.approx(result.negative_elbo_nats.mean)
    assert "the NLL is exact" in str(result)
    assert "KL" not in str(result)
    json.dumps(content)


def test_an_iaf_posterior_says_why_figures_are_missing(split):
    result = run(model(posterior="iaf"), split)
    assert result.active_units is result.mutual_information_nats is None
    assert result.kl_nats is not None
    assert latent.IAF_REASON in str(result)


def test_posterior_collapse_is_said(split):
    made = model(prior="gaussian")
    torch.nn.init.zeros_(made.encoder.moments.g)
    torch.nn.init.zeros_(made.encoder.moments.b)
    result = run(made, split)
    assert result.active_units == 0
    assert result.mutual_information_nats == pytest.approx(0, abs=1e-6)
    assert result.warning.startswith("posterior collapse: KL 0.000 nats")
    assert result.warning in str(result)
    used, unused = torch.tensor([4.0, 6.0]), torch.tensor([0.01, 0.02])
    assert latent.collapse(used, 0).startswith("posterior collapse: no active unit")
    assert latent.collapse(used, 1) is latent.collapse(used, None) is None
    assert latent.collapse(unused, 1).startswith("posterior collapse: KL 0.015 nats")
    for too_few in (unused[:1], torch.tensor([-2.0, 2.0])):  # a sampled KL may be small by chance
        assert latent.collapse(too_few, 1) is None


def test_a_single_image_claims_nothing(split):
    result = run(model(), split, subset=1)
    assert result.active_units is result.mutual_information_nats is result.warning is None
    assert latent.SINGLE_REASON in str(result)


class Stop(BaseException):
    pass


def stop_after(images, how):
    def report(done, total):
        if done >= images:
            how()

    return report


def interrupt():
    raise Stop


@pytest.mark.parametrize("killed", [False, True], ids=["interrupted", "killed"])
def test_cut_short_it_goes_on_and_ends_the_same(split, tmp_path, killed, monkeypatch):
    made = model()
    whole = run(made, split)
    if killed:  # no cleaning up: only what was written on the way counts
        monkeypatch.setattr(rounds, "SAVE_SECONDS", 0.0)
        child = os.fork()
        if child == 0:
            run(made, split, tmp_path, report=stop_after(32, lambda: os._exit(9)))
        assert os.waitpid(child, 0)[1] != 0
    else:
        with pytest.raises(Stop):
            run(made, split, tmp_path, report=stop_after(16, interrupt))
    seen = []
    again = run(made, split, tmp_path, report=lambda done, total: seen.append(done))
    assert seen == [16, 32, 40]
    assert again == whole
    assert torch.equal(again.image_nll_nats, whole.image_nll_nats)
    seen.clear()
    assert run(made, split, tmp_path, report=lambda done, total: seen.append(done)) == whole
    assert seen == [40]
    assert len(list(tmp_path.iterdir())) == 1


def test_with_many_samples_little_is_lost(split, monkeypatch):
    made, seen = model(), []
    whole = run(made, split, subset=7)
    monkeypatch.setattr("vlae_fast.evaluate.CODES", 3 * whole.samples)
    assert run(made, split, subset=7, report=lambda done, total: seen.append(done)) == whole
    assert seen == [0, 3, 6, 7]


def test_kept_figures_belong_to_weights_images_and_options(split, tmp_path):
    made = model()
    options = [{}, {"seed": 1}, {"samples": 3}, {"subset": 9}]
    for option in options:
        assert run(made, split, tmp_path, **option) == run(made, split, **option)
    with torch.no_grad():
        made.encoder.moments.b.add_(1e-6)
    run(made, split, tmp_path)
    assert len(list(tmp_path.iterdir())) == len(options) + 1


DAMAGE = {
    "garbage": lambda path: path.write_bytes(b"x" * 99),
    "other shapes": lambda path: checkpoint.write_tensors(path, {"scores": torch.zeros(3, 4), "done": torch.tensor(3)}),
    "no such count": lambda path: checkpoint.write_tensors(
        path, {"scores": torch.zeros(N, 4, dtype=torch.float64), "done": torch.tensor(-5)}
    ),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_figures_are_made_anew(split, tmp_path, case, capsys):
    made = model()
    whole = run(made, split, tmp_path)
    (kept,) = tmp_path.iterdir()
    DAMAGE[case](kept)
    assert run(made, split, tmp_path) == whole
    assert ("beginning anew" in capsys.readouterr().err) == (case != "no such count")


def test_a_folder_that_cannot_be_written_to_is_no_obstacle(split, tmp_path, capsys):
    (tmp_path / "file").write_bytes(b"")
    made = model()
    assert run(made, split, tmp_path / "file") == run(made, split)
    assert capsys.readouterr().err.count("this would begin anew") == 1


def test_paired_comparison(split):
    a, b = run(model(0), split), run(model(1), split)
    difference = a.minus(b)
    values = a.image_nll_nats - b.image_nll_nats
    assert difference.mean == pytest.approx(a.nll_nats.mean - b.nll_nats.mean)
    assert difference.standard_error == pytest.approx(values.std().item() / math.sqrt(N))
    assert a.minus(a) == evaluate.Mean(0.0, 0.0)
    with pytest.raises(ValueError, match=r"images, samples and seed \(40, 7, 0\) wanted, got \(5, 7, 0\)"):
        a.minus(run(model(1), split, subset=5))


def test_a_single_image_has_no_standard_error(split):
    result = run(model(), split, subset=1)
    assert result.nll_nats.standard_error is None
    assert f"NLL                     {result.nll_nats.mean:.3f} nats" in str(result)
    json.dumps(result.to_dict(), allow_nan=False)


def test_subset_is_drawn_by_its_seed(split):
    made = model()
    first, again, other = (run(made, split, subset=9, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.images == 9
    assert not torch.equal(first.image_nll_nats, other.image_nll_nats)
