"""What a public function does not take: one line that names the argument, before anything is computed or written."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from vlae_fast import (
    VLAE,
    Dataset,
    MADESpec,
    PixelCNNSpec,
    TrainConfig,
    Trainer,
    VLAEConfig,
    codec,
    evaluate,
    explore,
    load,
    ops,
    plots,
    use_backend,
)
from vlae_fast.checks import NonFiniteError
from vlae_fast.data import MissingDataError, Split
from vlae_fast.ops import MADELayer

CONFIG = dataclasses.replace(VLAEConfig.preset("tiny"), height=5, width=7)
NAN = float("nan")


def images(n=20):
    return (torch.rand(n, 1, 5, 7, generator=torch.Generator().manual_seed(0)) < 0.3).float()


def dataset():
    return Dataset.from_tensors(images())


def model():
    torch.manual_seed(0)
    return VLAE(CONFIG)


def codeless():
    return VLAE(dataclasses.replace(CONFIG, conditioning="none"))


def figures():
    return evaluate(model(), dataset().test, samples=1)


def given(n=2):
    return torch.full((n, 5, 7), -1, dtype=torch.int8)


def nested():
    return torch.nested.nested_tensor([*images(2)])


def grey():
    return Dataset.from_tensors(torch.rand(20, 5, 7)).test


def trainer(model=CONFIG, config=None, data=None, out="run"):
    return Trainer(
        model, TrainConfig() if config is None else config, dataset() if data is None else data, out, quiet=True
    )


def rows(size):
    np.save("rows.npy", np.eye(35, dtype=np.uint8))
    return load("rows.npy", image_size=size)


EMPTY = "a path, not empty and without NUL, wanted, got"
DENSE = "a dense tensor wanted, got torch.sparse_coo"
REFUSED = {
    "VLAE of a name": (lambda: VLAE("tiny"), "config: VLAEConfig wanted, got str"),
    "VLAE of a dict": (lambda: VLAE({"height": 3}), "config: VLAEConfig wanted, got dict"),
    "load from nowhere": (lambda: VLAE.from_pretrained(""), f"name_or_folder: {EMPTY} ''"),
    "load from NUL": (lambda: VLAE.from_pretrained("a\0b"), f"name_or_folder: {EMPTY}"),
    "load from None": (lambda: VLAE.from_pretrained(None), "name_or_folder: a path wanted, got None"),
    "load from bytes": (lambda: VLAE.from_pretrained(b"a"), "name_or_folder: a path wanted, got b'a'"),
    "save to nowhere": (lambda: model().save_pretrained(""), f"folder: {EMPTY} ''"),
    "save to NUL": (lambda: model().save_pretrained("a\0b"), f"folder: {EMPTY}"),
    "save to a number": (lambda: model().save_pretrained(3), "folder: a path wanted, got 3"),
    "data from nowhere": (lambda: load(""), f"name: {EMPTY} ''"),
    "data from None": (lambda: load(None), "name: a path wanted, got None"),
    "size of one number": (lambda: rows(5), "image_size: (height, width) in pixels wanted, got 5"),
    "size in words": (lambda: rows("5x7"), "image_size: (height, width) in pixels wanted, got '5x7'"),
    "size below 0": (lambda: rows((-5, -7)), "image_size: a whole number in 1.."),
    "size of fractions": (lambda: rows((5.0, 7.0)), "image_size: a whole number wanted, got 5.0"),
    "no images": (lambda: Dataset.from_tensors(None), "train: a tensor or array wanted, got NoneType"),
    "sparse training images": (lambda: Dataset.from_tensors(images().to_sparse()), "train: a dense tensor with values"),
    "no values": (lambda: Dataset.from_tensors(images(), images().to("meta")), "valid: a dense tensor with values"),
    "name": (lambda: Dataset.from_tensors(images(), name=3), "name: str wanted, got int"),
    "beyond the split": (lambda: dataset().test.fixed(99), "first: a whole number in 0..2 wanted, got 99"),
    "more than the split": (lambda: dataset().test.fixed(1, 3), "count: a whole number in 0..1 wanted, got 3"),
    "evaluate images": (lambda: evaluate(model(), images()), "split: Split wanted, got Tensor"),
    "evaluate a data set": (lambda: evaluate(model(), dataset()), "split: Split wanted, got Dataset"),
    "evaluate a name": (lambda: evaluate("static-mnist", dataset().test), "model: VLAE wanted, got str"),
    "train a model": (lambda: trainer(model()), "model: VLAEConfig wanted, got VLAE"),
    "train the wrong way round": (lambda: trainer(TrainConfig(), CONFIG), "config: TrainConfig wanted, got VLAEConfig"),
    "train on images": (lambda: trainer(data=images()), "dataset: Dataset wanted, got Tensor"),
    "train on a split": (lambda: trainer(data=dataset().train), "dataset: Dataset wanted, got Split"),
    "train into nothing": (lambda: trainer(out=""), f"out: {EMPTY} ''"),
    "train into None": (lambda: trainer(out=None), "out: a path wanted, got None"),
    "train another size": (lambda: trainer(VLAEConfig()), "model: height, width (5, 7), those of tensors in memory"),
    "nested images": (lambda: model()(nested()), "images: a dense tensor wanted, got a nested one"),
    "nested training images": (lambda: Dataset.from_tensors(nested()), "train: a dense tensor with values wanted"),
    "nested tensors of an op": (lambda: ops.masked_conv3x3(nested(), *[images()] * 2, mask="A"), "x: a dense tensor"),
    "a number for a function": (lambda: model().sample(2, report=3), "report: a function wanted, got 3"),
    "None for a function": (lambda: model().log_likelihood(images(), report=None), "report: a function wanted, got"),
    "evaluate with a number": (lambda: evaluate(model(), dataset().test, report=3), "report: a function wanted, got 3"),
    "evaluate with no world": (lambda: evaluate(model(), dataset().test, world=3), "world: World wanted, got int"),
    "evaluate beyond all bounds": (lambda: evaluate(model(), dataset().test, samples=2**32), "samples: a whole number"),
    "train in no world": (
        lambda: Trainer(CONFIG, TrainConfig(), dataset(), "run", world=3),
        "world: World wanted, got",
    ),
    "train on no device": (lambda: Trainer(CONFIG, TrainConfig(), dataset(), "r", device=None), "device: auto, cpu or"),
    "noise that is none": (lambda: model().elbo(images(2), noise=3), "noise: a tensor wanted, got int"),
    "noise of NaN": (lambda: model().elbo(images(2), noise=torch.full((2, 8), NAN)), "noise: finite values wanted"),
    "noise for others": (
        lambda: model().elbo(images(2), noise=torch.ones(1, 8)),
        "noise: torch.float32 [2, 8] cpu",
    ),
    "image of a fraction": (lambda: dataset().test[1.0], "index: a whole number wanted, got 1.0"),
    "images of a range": (lambda: dataset().test[:2], "index: a whole number wanted, got slice"),
    "joined to images": (lambda: dataset().test.joined(images()), "other: Split wanted, got Tensor"),
    "joined to others": (lambda: dataset().test.joined(grey()), "other: height, width, dynamic and dtype (5, 7, False"),
    "layers of a fraction": (lambda: PixelCNNSpec().stages(1.0, 0), "layers: a whole number wanted, got 1.0"),
    "layers below 0": (lambda: PixelCNNSpec().stages(-1, 0), "layers: a whole number in 0.."),
    "blocks without layers": (lambda: PixelCNNSpec().stages(0, 1), "spec: no 1x1 blocks without mask-B layers wanted"),
    "all of the average": (lambda: TrainConfig(polyak=1), "polyak: a number in 0..0.99999994 wanted, got 1"),
    "a picture of no columns": (lambda: plots.image_grid(images(), 0, "g.png"), "columns: a whole number in 1.."),
    "a picture of no image": (lambda: plots.image_grid(images(0), 2, "g.png"), "images: shape [N, 1, H, W], none"),
    "a picture of rows": (lambda: plots.image_grid(images()[:, 0], 2, "g.png"), "images: shape [N, 1, H, W], none"),
    "a picture of an array": (
        lambda: plots.image_grid(images().numpy(), 2, "g.png"),
        "images: a tensor wanted, got nd",
    ),
    "a picture of grey 0..255": (lambda: plots.image_grid(images() * 255, 2, "g.png"), "images: values in 0..1 wanted"),
    "a picture of NaN": (lambda: plots.image_grid(images() * NAN, 2, "g.png"), "images: values in 0..1 wanted"),
    "too large a picture": (lambda: plots.image_grid(images(), 10**9, "g.png"), "images: 20 of them make a picture of"),
    "pairs of others": (lambda: plots.pairs(images(), images(2), "p.png"), "right: shape [20, 1, 5, 7], that of left"),
    "curves of nothing": (lambda: plots.curves([], "c.png"), "rows: one or more lines of a metrics.jsonl"),
    "no preset": (lambda: VLAEConfig.preset(["tiny"]), "preset: one of paper, tiny wanted, got ['tiny']"),
    "no backend": (lambda: use_backend(np.ones(2)), "backend: one of auto, reference wanted, got array([1., 1.])"),
    "no mask": (
        lambda: ops.masked_conv3x3(*[images()] * 3, mask=images()),
        "mask: one of A, B wanted, got tensor([[[[",
    ),
    "a flag of lines": (
        lambda: ops.dense(*[images()] * 3, pre_elu="a\nb"),
        "pre_elu: true or false wanted, got 'a\\nb'",
    ),
    "no order": (
        lambda: Dataset.from_tensors(images(), order=np.ones(2)),
        "order: one of shuffled, file wanted, got ar",
    ),
    "no quiet": (
        lambda: Trainer(CONFIG, TrainConfig(), dataset(), "r", quiet="no"),
        "quiet: true or false wanted, got",
    ),
    "a device of 2**64": (lambda: Trainer(CONFIG, TrainConfig(), dataset(), "r", device=2**64), "device: auto, cpu or"),
    "channels without values": (
        lambda: VLAEConfig(encoder_channels=torch.ones(2, device="meta")),
        "encoder_channels: whole numbers wanted, got tensor(",
    ),
    "a name beyond all file systems": (lambda: load("y" * 300), "name: a path of at most 4095 bytes, 255 a name, want"),
    "a path beyond them": (lambda: VLAE.from_pretrained("y/" * 3000), "name_or_folder: a path of at most 4095 bytes,"),
    "a name of no encoding": (lambda: model().save_pretrained("\ud800"), "folder: a path of at most 4095 bytes, 255 a"),
    "data in no folder": (lambda: load("own.npy", 3), "data_dir: a path wanted, got 3"),
    "a data set of tensors": (lambda: Dataset("d", images(), images(), images()), "train: Split wanted, got Tensor"),
    "a split of a tensor": (lambda: Split(images(), 5, 7, False), "pixels: ndarray wanted, got Tensor"),
    "a split of images": (
        lambda: Split(images().numpy(), 5, 7, True),
        "pixels: uint8, float16 or float32 [n, 35] want",
    ),
    "a split of bytes as bits": (
        lambda: Split(np.zeros((3, 35), np.uint8), 5, 7, False),
        "pixels: uint8 [n, 5] wanted",
    ),
    "a split of no kind": (lambda: Split(np.zeros((3, 5), np.uint8), 5, 7, None), "dynamic: true or false wanted, got"),
    "images of names": (
        lambda: dataset().train.take("ab"),
        "indices: a row of whole numbers or a slice wanted, got 'a",
    ),
    "drawn by no tensor": (lambda: grey().binary(slice(2), None), "uniforms: Tensor wanted, got NoneType"),
    "drawn by others": (lambda: grey().binary(slice(2), images(1)), "uniforms: shape [2, 1, 5, 7] wanted, got [1, 1"),
    "less than no evaluation": (lambda: figures().minus(3), "other: Evaluation wanted, got int"),
    "a picture of sparse images": (lambda: plots.image_grid(images().to_sparse(), 2, "g.png"), f"images: {DENSE}"),
    "a complex picture": (
        lambda: plots.image_grid(images() * 1j, 2, "g.png"),
        "images: real numbers wanted, got torch.c",
    ),
    "curves of a number": (lambda: plots.curves(3, "c.png"), "rows: list wanted, got int"),
    "curves of numbers": (lambda: plots.curves([3], "c.png"), "rows[0]: dict wanted, got int"),
    "curves of other rows": (
        lambda: plots.curves([{"epoch": 1}], "c.png"),
        "rows[0]['train_negative_elbo_nats']: a num",
    ),
    "layers of a number": (lambda: MADESpec(3), "layers: a tuple or list wanted, got 3"),
    "layers of numbers": (lambda: MADESpec((3,)), "layers: MADELayer wanted, got int"),
    "a flag of a layer": (
        lambda: MADESpec((MADELayer(4, context="no"),)),
        "layers[0].context: true or false wanted, got",
    ),
    "numbers of a number": (lambda: MADESpec((MADELayer(4),), numbers=3), "numbers: a tuple or list wanted, got 3"),
    "no activation": (
        lambda: MADESpec((MADELayer(4),), []),
        "activation: one of identity, relu, tanh, elu, sigmoid, s",
    ),
    "no widths": (lambda: MADESpec.feed_forward(2, 3), "hidden: a tuple or list wanted, got 3"),
    "no variables": (lambda: MADESpec.feed_forward("2", [3]), "D: a whole number wanted, got '2'"),
    "columns of no layer": (
        lambda: MADESpec((MADELayer(4),)).columns(1, 2),
        "layer: a whole number in 0..0 wanted, got 1",
    ),
    "sizes of no D": (lambda: MADESpec((MADELayer(4),)).sizes([2]), "D: a whole number wanted, got [2]"),
    "starts of no field": (lambda: MADESpec((MADELayer(4),)).starts(3), "field: one of context, gated wanted, got 3"),
    "noise without a code": (lambda: codeless().elbo(images(2), noise=3), "noise: a tensor wanted, got int"),
    "seed without a code": (lambda: codeless().log_likelihood(images(2), seed="0"), "seed: a whole number wanted, got"),
    "sparse images": (lambda: model()(images().to_sparse()), f"images: {DENSE}"),
    "sparse pixels": (lambda: model().sample(2, given=given().to_sparse()), f"given: {DENSE}"),
    "sparse codes": (lambda: model().decode(torch.ones(2, 8).to_sparse()), f"z: {DENSE}"),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name_in_one_line(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, message = REFUSED[case]
    with pytest.raises((TypeError, ValueError)) as raised:
        call()
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"rows.npy"}


@pytest.mark.parametrize("name", ["minutes", "epochs"])
@pytest.mark.parametrize("value", [NAN, -1, 0, "3", float("inf")], ids=repr)
def test_the_end_of_a_training_is_a_positive_number(name, value, tmp_path):
    """With minutes that are not a number it never came."""
    with pytest.raises((TypeError, ValueError), match=f"{name}: a (positive )?number wanted, got {value!r}"):
        trainer(out=tmp_path / "run").run(**{name: value})


CALLS = {
    "encode": lambda model: model.encode(images(2)),
    "log_likelihood": lambda model: model.log_likelihood(images(2), samples=3),
    "evaluate": lambda model: evaluate(model, dataset().test, samples=3),
    "sample": lambda model: model.sample(2),
    "inpaint": lambda model: model.inpaint(given(), rounds=1),
}


@pytest.mark.parametrize("part", ["encoder", "decoder", "prior_flow", "pixelcnn"])
@pytest.mark.parametrize("call", CALLS)
def test_weights_that_are_nan_give_no_figures(call, part):
    """What does not touch the part works as ever."""
    spoilt, untouched = model(), {"encode": {"encoder"}, "sample": {"decoder", "prior_flow", "pixelcnn"}}
    with torch.no_grad():
        next(getattr(spoilt, part).parameters()).fill_(NAN)
    if part not in untouched.get(call, {part}):
        CALLS[call](spoilt)
        return
    with pytest.raises(NonFiniteError) as raised:
        CALLS[call](spoilt)
    assert "\n" not in str(raised.value)


def test_a_model_without_code_that_is_nan_gives_no_figures():
    spoilt = codeless()
    with torch.no_grad():
        next(spoilt.parameters()).fill_(NAN)
    with pytest.raises(NonFiniteError, match="what the model gives: finite values wanted, got NaN"):
        spoilt.log_likelihood(images(2), samples=3)


def from_home(path):
    return f"~/{path.relative_to(Path.home())}"


@pytest.mark.parametrize("kind", [str, Path, from_home])
def test_paths_are_texts_or_paths_and_may_begin_at_home(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = kind(tmp_path / "run")
    run = trainer(out=folder)
    run.run(epochs=1)
    evaluate(VLAE.from_pretrained(folder), dataset().test, samples=2, folder=folder)
    model().save_pretrained(kind(tmp_path / "model"))
    assert len(list((tmp_path / "run").glob("evaluation-*"))) == 1
    plots.image_grid(images(2), 2, kind(tmp_path / "grid.png"))
    np.save("own.npy", images().numpy())
    load(kind(tmp_path / "own.npy"))
    for data_dir in (kind(tmp_path / "data"), None):
        monkeypatch.setenv("VLAE_DATA", str(kind(tmp_path / "data")))
        with pytest.raises(MissingDataError, match=f"^'{tmp_path / 'data'}': no "):
            load("omniglot", data_dir)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "model", "grid.png", "own.npy"}


def compressed(model, images):
    """Losslessly and lossily."""
    return [codec.compress(model, images), codec.compress(model, images, lossy=True, bits=6)]


def test_the_default_device_is_that_of_new_tensors_alone(tmp_path):
    """As of `torch.set_default_device("cuda")`, with a model on the CPU."""
    mine, data = model(), dataset()
    images = mine.sample(3, seed=1)
    files = compressed(mine, images)
    drawn = codec.decompress(mine, files[1])
    with torch.device("meta"):
        evaluate(mine, data.test, samples=2, folder=tmp_path)
        trainer(data=data, out=tmp_path / "run").run(epochs=0.1)
        assert compressed(mine, images) == files
        assert torch.equal(codec.decompress(mine, files[0]), images)
        assert torch.equal(codec.decompress(mine, files[1]), drawn)
        explore.page(mine, name="a", trained_on="b")


def test_the_default_dtype_is_that_of_new_tensors_alone(tmp_path):
    mine, data = model(), dataset()
    images = mine.sample(3, seed=1)
    files = compressed(mine, images)
    torch.set_default_dtype(torch.float64)
    try:
        assert compressed(mine, images) == files
        assert torch.equal(codec.decompress(mine, files[0]), images)
        trainer(data=data, out=tmp_path / "run").run(epochs=0.1)
    finally:
        torch.set_default_dtype(torch.float32)


def test_loading_on_the_meta_device_is_silent(recwarn):
    with torch.device("meta"):
        loaded = VLAE.from_pretrained("static-mnist")
    assert {p.device.type for p in loaded.parameters()} == {"meta"}
    assert not recwarn
