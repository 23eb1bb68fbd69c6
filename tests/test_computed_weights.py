"""Weights that are computed from others as the model is called, averages of them, and parts of one's own."""

import copy
from dataclasses import replace

import pytest
import torch
from conftest import assert_close
from test_habits import CONFIG, Case
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vlae_fast import VLAE, use_backend

PRUNED = (
    ("encoder.dense", "v"),
    ("encoder.blocks.0.conv1", "v"),
    ("pixelcnn", "hidden_v"),
    ("prior_flow", "hidden2_v"),
)


class Doubled(nn.Module):
    """A parametrization that changes nothing: it halves what it stores."""

    def forward(self, stored):
        return 2 * stored

    def right_inverse(self, value):
        return value / 2


def parametrized():
    """A case whose every parameter is."""
    case = Case()
    for module in list(case.model.modules()):
        for name in [name for name, _ in module.named_parameters(recurse=False)]:
            parametrize.register_parametrization(module, name, Doubled())
    return case


def test_parametrized():
    case = parametrized()
    case.trains(case.model, case.model)
    case.trains(case.model.double().float(), case.model)


def test_pruned():
    """After each step the model is one of the weights that the masks leave, in all that it does."""
    case = Case()
    for part, name in PRUNED:
        prune.l1_unstructured(case.model.get_submodule(part), name, 0.3)
    optimizer = torch.optim.SGD(case.model.parameters(), 0.003)
    for _ in range(3):
        optimizer.zero_grad()
        (-case.model(case.images, noise=case.noise).elbo.mean()).backward()
        optimizer.step()
    drawn = case.model.sample(50)
    bound = case.model(case.images, noise=case.noise).elbo
    for part, name in PRUNED:
        prune.remove(case.model.get_submodule(part), name)
    assert torch.equal(case.model.sample(50), drawn)
    assert_close(case.model(case.images, noise=case.noise).elbo, bound)


def test_a_pruned_context_map():
    model = VLAE(replace(CONFIG, conditioning="map"))
    nn.init.normal_(model.context_map)
    prune.l1_unstructured(model, "context_map", 0.3)
    with torch.no_grad():
        model.context_map_orig.mul_(3)
    drawn = model.sample(50)
    prune.remove(model, "context_map")
    assert torch.equal(model.sample(50), drawn)


@pytest.mark.parametrize("part", ["g", "b"])
def test_what_cannot_be_set_is_not_initialized(part):
    case = Case()
    prune.l1_unstructured(case.model.encoder.dense, part, 0.3)
    for model in (case.model, parametrized().model):
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(ValueError, match=r"^model: initialize it before its gains and biases are computed from"):
            model.initialize(case.images)
        assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_pruned_directions_are_initialized():
    case = Case()
    prune.l1_unstructured(case.model.encoder.dense, "v", 0.3)
    with torch.no_grad():
        case.model.encoder.dense.g.fill_(7.0)
    case.model.initialize(case.images)
    assert (case.model.encoder.dense.g != 7.0).all()


@pytest.mark.parametrize("options", [{}, {"multi_avg_fn": get_ema_multi_avg_fn(0.9), "use_buffers": True}])
def test_averaged(options):
    """Masks and degrees are no averages."""
    case = Case()
    average = AveragedModel(case.model, **options)
    for _ in range(30):
        average.update_parameters(case.model)
    case.scores(average)


def test_constants_follow_a_replica():
    """Of nn.DataParallel: a copy of the module, then parameters on another device."""
    model = VLAE(CONFIG)
    for module in (model.prior_flow, model.pixelcnn):
        replica = module._replicate_for_data_parallel()
        replica._parameters = {name: p.to("meta") for name, p in module.named_parameters()}
        with use_backend("reference"):
            assert all(t.is_meta for t in replica.params())
        assert not any(t.is_meta for t in module.params())


class OwnEncoder(nn.Module):
    """From pixels straight to moments."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(63, 2 * CONFIG.latent_size)
        self.context = nn.Linear(63, CONFIG.flow_steps * CONFIG.flow_hidden)

    def forward(self, x, weights=None):
        context = self.context(x.flatten(1)).unflatten(1, (CONFIG.flow_steps, -1))
        return *self.dense(x.flatten(1)).chunk(2, 1), context


def test_an_encoder_of_ones_own(tmp_path):
    """It trains; `from_pretrained` would not read what `save_pretrained` wrote."""
    model, images = VLAE(CONFIG), Case().images
    model.encoder = OwnEncoder()
    model.initialize(images)
    (-model(images).elbo.mean()).backward()
    assert model.encoder.dense.weight.grad.abs().sum() > 0
    assert model.log_likelihood(images, samples=3).isfinite().all()
    with pytest.raises(ValueError, match=r"^model: encoder.blocks.* is not what its config tells.*save its state_dict"):
        model.save_pretrained(tmp_path / "m")
    mapped = VLAE(replace(CONFIG, conditioning="map"))
    parametrize.register_parametrization(mapped, "context_map", Doubled())
    for other in (parametrized().model, mapped):
        with pytest.raises(ValueError, match="^model: .* is not what its config tells"):
            other.save_pretrained(tmp_path / "m")
    assert not (tmp_path / "m").exists()
