"""What torch's users do to a module works on the model, or raises one line that says what to do instead."""

import copy
import io
import pickle
from dataclasses import replace

import pytest
import torch
from conftest import assert_close
from torch import distributed, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.export import Dim, export
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from vlae_fast import VLAE, VLAEConfig, use_backend
from vlae_fast.model import Bound

CONFIG = replace(VLAEConfig.preset("tiny"), height=9, width=7, encoder_channels=(4,), flow_steps=1, posterior="iaf")


class Case:
    """A model, a batch, and the bound that it must give."""

    def __init__(self):
        self.model = VLAE(CONFIG)
        self.model.initialize((torch.rand(32, 1, 9, 7) < 0.3).float())
        self.images = self.model.sample(3)
        self.noise = torch.randn(3, CONFIG.latent_size)
        self.expected = self.model.elbo(self.images, noise=self.noise).elbo.detach()

    def scores(self, call):
        """`call` stands for the model: it gives the bound."""
        bound = call(self.images, noise=self.noise)
        assert isinstance(bound, Bound)
        assert_close(bound.elbo.detach(), self.expected)
        return bound

    def trains(self, call, model):
        """`call` stands for `model`: gradients reach all of its parameters that are not frozen."""
        (-self.scores(call).elbo.mean()).backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None and parameter.grad.isfinite().all()) == parameter.requires_grad, name


def called(case):
    case.trains(case.model, case.model)


def hooked(case):
    seen = set()
    for name, module in case.model.named_modules():
        module.register_forward_hook(lambda module, inputs, output, name=name: seen.add(name))
    case.scores(case.model)  # what stands in a row of blocks is computed with it
    assert seen == {n for n, _ in case.model.named_modules() if ".blocks." not in n} - {"decoder.output"}


def flops_counted(case):
    with FlopCounterMode(display=False) as counter:
        case.scores(case.model)
    assert counter.get_total_flops() > 0


def data_parallel(case):
    case.trains(nn.DataParallel(case.model), case.model)


def distributed_and_sharded(case):
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        case.trains(nn.parallel.DistributedDataParallel(case.model), case.model)
        sharded = copy.deepcopy(case.model)
        fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
        case.scores(sharded).elbo.sum().backward()
    finally:
        distributed.destroy_process_group()


def on_the_meta_device_then_to_empty(case):
    with torch.device("meta"):
        model = VLAE(CONFIG)
    model.to_empty(device="cpu")
    model.load_state_dict(case.model.state_dict())
    case.trains(model, model)
    model.to_empty(device="cpu").zero_grad()  # memory of what was there before, that of the gradients too
    model.load_state_dict(case.model.state_dict())
    case.trains(model, model)


def on_the_meta_device_then_assigned(case):
    with torch.device("meta"):
        model = VLAE(CONFIG)
    model.load_state_dict(case.model.state_dict(), assign=True)
    case.scores(model)
    assert not any(t.is_meta for t in model.parameters())


def to_double_and_back(case):
    case.trains(case.model.double().float(), case.model)


def other_dtypes_under_the_reference(case):
    for dtype, tolerance in ((torch.float64, 1e-5), (torch.bfloat16, 0.02)):
        model = copy.deepcopy(case.model).to(dtype)
        with use_backend("reference"):
            bound = model(case.images.to(dtype), noise=case.noise.to(dtype))
            assert bound.elbo.dtype == model.sample(1).dtype == dtype
        torch.testing.assert_close(bound.elbo.float(), case.expected, rtol=tolerance, atol=0.1)


def autocast(case):
    with torch.autocast("cpu", torch.bfloat16):
        bound = case.model(case.images)
    assert bound.elbo.dtype == torch.float32
    assert bound.elbo.isfinite().all()


def default_dtype_of_double(case):
    torch.set_default_dtype(torch.float64)
    try:
        case.scores(case.model)
        assert case.model.sample(2).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def channels_last(case):
    model = case.model.to(memory_format=torch.channels_last)
    case.images = case.images.to(memory_format=torch.channels_last)
    case.trains(model, model)
    assert model.sample(2).is_contiguous()


def inference_mode(case):
    with torch.inference_mode():
        case.scores(case.model)
        images = case.model.sample(3)
        case.model.encode(images).sample()
        case.model.reconstruct(images)
        case.model.log_likelihood(images, samples=2)
        made = VLAE(CONFIG)
        made.load_state_dict(case.model.state_dict())
        case.scores(made)
    case.trains(case.model, case.model)  # nothing made in there was kept


def functional_call(case):
    parameters = {name: p.detach().clone().requires_grad_() for name, p in case.model.named_parameters()}
    bound = case.scores(lambda *a, **k: torch.func.functional_call(case.model, parameters, a, k))
    assert all(g.isfinite().all() for g in torch.autograd.grad(bound.elbo.sum(), list(parameters.values())))
    assert all(p.grad is None for p in case.model.parameters())


def copied_and_pickled(case):
    for model in (copy.deepcopy(case.model), pickle.loads(pickle.dumps(case.model))):
        case.trains(model, model)
    file = io.BytesIO()
    torch.save(case.model, file)
    file.seek(0)
    case.scores(torch.load(file, weights_only=False))


class Scored(torch.utils.data.Dataset):
    """A data set that holds a model."""

    def __init__(self, case):
        self.case = case

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.case.model(self.case.images, noise=self.case.noise).elbo.detach()


def in_a_worker_that_was_forked(case):
    case.scores(case.model)  # threads of the kernels may be running
    assert_close(next(iter(DataLoader(Scored(case), num_workers=1)))[0], case.expected)


def in_a_worker_that_was_spawned(case):
    """3 s, as the worker imports torch: it is sent the model as a pickle."""
    loader = DataLoader(Scored(case), num_workers=1, multiprocessing_context="spawn")
    assert_close(next(iter(loader))[0], case.expected)


def frozen_parts(case):
    for part in ("encoder", "decoder", "prior_flow", "posterior_flow", "pixelcnn"):
        model = copy.deepcopy(case.model)
        getattr(model, part).requires_grad_(False)
        case.trains(model, model)
    for name in ("pixelcnn.output_b", "prior_flow.hidden1_v", "encoder.dense.g"):
        model = copy.deepcopy(case.model).requires_grad_(False)
        model.get_parameter(name).requires_grad_(True)
        case.trains(model, model)


def gradient_of_the_images(case):
    model = case.model.requires_grad_(False)
    images = case.images.clone().requires_grad_()
    model(images, noise=case.noise).elbo.sum().backward()
    assert images.grad.abs().sum() > 0


def lbfgs(case):
    optimizer = torch.optim.LBFGS(case.model.parameters(), max_iter=3)

    def closure():
        optimizer.zero_grad()
        loss = -case.model(case.images, noise=case.noise).elbo.mean()
        loss.backward()
        return loss

    assert optimizer.step(closure) > closure()


def activations_recomputed(case):
    case.trains(lambda x, noise: checkpoint(case.model, x, noise=noise, use_reentrant=False), case.model)


def activations_offloaded(case):
    with torch.autograd.graph.save_on_cpu():
        case.trains(case.model, case.model)


def anomalies_detected(case):
    with torch.autograd.set_detect_anomaly(True):
        case.trains(case.model, case.model)


def deterministic_algorithms(case):
    torch.use_deterministic_algorithms(True)
    try:
        case.trains(case.model, case.model)
        case.model.sample(1)
    finally:
        torch.use_deterministic_algorithms(False)


def fake_tensors(case):
    """As tools use them that tell how much memory a step takes."""
    with FakeTensorMode():
        model = VLAE(CONFIG)
        assert model(torch.empty(4, 1, 9, 7)).elbo.shape == (4,)
        model(torch.empty(4, 1, 9, 7)).elbo.sum().backward()


def compiled(case):
    """4 s; "aot_eager" does all but the writing of kernels."""
    torch._dynamo.reset()
    case.trains(torch.compile(case.model, fullgraph=True, backend="aot_eager"), case.model)


def compiled_with_sizes_and_numbers_that_change(case):
    for call, dynamic in (
        (lambda x, t: case.model(x).elbo, True),
        (lambda x, t: case.model.reconstruct(x), True),
        (lambda x, t: case.model.sample(len(x), temperature=t), False),
    ):
        torch._dynamo.reset()
        compiled = torch.compile(call, fullgraph=True, dynamic=dynamic, backend="eager")
        for images, temperature in ((case.images, 1.0), (case.images[:2], 0.7), (case.images, 0.5)):
            torch.manual_seed(0)
            found = compiled(images, temperature)
            torch.manual_seed(0)
            assert_close(found, call(images, temperature))


def exported_with_a_dynamic_batch(case):
    """3 s."""
    batch = Dim("batch")
    shapes = {"images": {0: batch}, "noise": {0: batch}}
    program = export(case.model, (case.images,), {"noise": case.noise}, dynamic_shapes=shapes)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    module = torch.export.load(file).module()
    case.scores(module)
    images, noise = case.model.sample(5), torch.randn(5, CONFIG.latent_size)
    assert_close(module(images, noise=noise).elbo, case.model(images, noise=noise).elbo)


HABITS = [
    called,
    hooked,
    flops_counted,
    data_parallel,
    distributed_and_sharded,
    on_the_meta_device_then_to_empty,
    on_the_meta_device_then_assigned,
    to_double_and_back,
    other_dtypes_under_the_reference,
    autocast,
    default_dtype_of_double,
    channels_last,
    inference_mode,
    functional_call,
    copied_and_pickled,
    in_a_worker_that_was_forked,
    in_a_worker_that_was_spawned,
    frozen_parts,
    gradient_of_the_images,
    lbfgs,
    activations_recomputed,
    activations_offloaded,
    anomalies_detected,
    deterministic_algorithms,
    fake_tensors,
    compiled,
    compiled_with_sizes_and_numbers_that_change,
    exported_with_a_dynamic_batch,
]


@pytest.mark.parametrize("habit", HABITS, ids=lambda habit: habit.__name__)
def test_works(habit):
    habit(Case())


CALLS = {
    "model(images)": lambda model, images: model(images),
    "sample": lambda model, images: model.sample(1),
    "reconstruct": lambda model, images: model.reconstruct(images),
    "encode": lambda model, images: model.encode(images),
    "log_likelihood": lambda model, images: model.log_likelihood(images, samples=1),
    "initialize": lambda model, images: model.initialize(images),
}
STATES = {
    "half": (nn.Module.half, TypeError, "model: float32 parameters wanted, got torch.float16; .* torch.autocast"),
    "bfloat16": (nn.Module.bfloat16, TypeError, "model: float32 parameters wanted, got torch.bfloat16"),
    "double": (nn.Module.double, TypeError, r"got torch.float64; .*use_backend\('reference'\)"),
    "meta": (lambda model: model.to("meta"), ValueError, "model: on the meta device it has no values"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("state", STATES)
def test_refused_in_one_line(state, call):
    change, error, message = STATES[state]
    with pytest.raises(error, match=message) as raised:
        CALLS[call](change(VLAE(CONFIG)), torch.zeros(1, 1, 9, 7))
    assert "\n" not in str(raised.value)


def test_a_model_without_values_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="model: on the meta device it has no values"):
        VLAE(CONFIG).to("meta").save_pretrained(tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("call", [call for call in CALLS if call != "sample"])
def test_images_on_another_device(call):
    with pytest.raises(ValueError, match=r"images: device cpu \(that of the model\) wanted, got meta"):
        CALLS[call](VLAE(CONFIG), torch.zeros(1, 1, 9, 7, device="meta"))
    with pytest.raises(ValueError, match=r"noise: torch.float32 \[1, 8\] cpu wanted, got torch.float32 \[1, 8\] meta"):
        VLAE(CONFIG)(torch.zeros(1, 1, 9, 7), noise=torch.zeros(1, 8, device="meta"))


def test_second_derivatives_are_refused():
    case = Case()
    gradients = torch.autograd.grad(case.scores(case.model).elbo.sum(), case.model.parameters(), create_graph=True)
    with pytest.raises(NotImplementedError, match=r"no second derivatives; use_backend\('reference'\) has them"):
        sum(g.sum() for g in gradients).backward()


def test_transforms_of_torch_func_name_the_backend_that_has_them():
    case = Case()
    parameters = {name: p.detach() for name, p in case.model.named_parameters()}

    def loss(parameters):
        inputs, options = (case.images,), {"noise": case.noise}
        return torch.func.functional_call(case.model, parameters, inputs, options).elbo.sum()

    with pytest.raises(NotImplementedError, match=r"torch.func run under vlae_fast.use_backend\('reference'\)"):
        torch.func.grad(loss)(parameters)
    with use_backend("reference"):
        assert all(g.isfinite().all() for g in torch.func.grad(loss)(parameters).values())
