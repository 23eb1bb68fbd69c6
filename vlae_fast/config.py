"""What a model and a training are made of: frozen dataclasses, checked on creation, and named presets."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from vlae_fast.checks import choice, flag, real, shown, whole

try:  # flags are made from these classes where the extra `cli` is installed
    from tyro.conf import Suppress
except ModuleNotFoundError:
    Suppress = None  # type: ignore[misc]

__all__ = ["PixelCNNSpec", "TrainConfig", "VLAEConfig", "from_dict", "of_this_version"]

T = TypeVar("T")

MOST = 65_536
"""Largest side of an image, number of channels, of units and of dimensions of z."""
MOST_NUMBERS = 2**30
"""Largest size of a tensor: the weights of a layer, the feature maps of an image."""
MOST_BLOCKS = 1024
"""Largest number of masked layers, of 1x1 blocks and of steps of a flow."""
_ANY: Any = (0, 2**63 - 1)


def _normalise(config: Any, **bounds: tuple[float, float]) -> None:
    """Makes every field a plain Python value of its declared type, within its bounds: callers and files hold anything.

    Raises TypeError or ValueError that names the field.
    """
    for name, hint in get_type_hints(type(config)).items():
        object.__setattr__(config, name, _plain(name, getattr(config, name), hint, bounds.get(name, _ANY)))


def _plain(name: str, value: Any, hint: Any, bounds: Any) -> Any:
    if hint is int:
        return whole(name, value, *bounds)
    if hint is float:
        return _in_range(name, real(name, value), *bounds)
    if hint is bool:
        return flag(name, value)
    if hint is str:
        return _text(name, value)
    if get_origin(hint) is Literal:
        return choice(name, value, get_args(hint))
    if get_origin(hint) is UnionType:  # X | None
        return None if value is None else _plain(name, value, get_args(hint)[0], bounds)
    if get_origin(hint) is tuple:
        return _wholes(name, value, *bounds)
    if not isinstance(value, hint):
        raise TypeError(f"{name}: {hint.__name__} wanted, got {shown(value)}")
    return value


def _in_range(name: str, value: float, least: float, most: float) -> float:
    if not least <= value <= most:
        raise ValueError(f"{name}: a number in {least:g}..{most:.9g} wanted, got {value:.9g}")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name}: a text wanted, got {shown(value)}")
    if len(value) > 4096 or "\0" in value:  # texts are names of files
        raise ValueError(f"{name}: at most 4096 characters, none of them NUL, wanted, got {shown(value)}")
    return str(value)


def _wholes(name: str, value: Any, least: int, most: int) -> tuple[int, ...]:
    try:
        values = value.tolist() if hasattr(value, "tolist") else value  # numpy's and torch's
    except RuntimeError:  # a tensor without values in a row
        values = None
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise TypeError(f"{name}: whole numbers wanted, got {shown(value)}")
    if len(values) > MOST_BLOCKS:
        raise ValueError(f"{name}: at most {MOST_BLOCKS} numbers wanted, got {len(values)}")
    return tuple(whole(f"{name}[{i}]", v, least, most) for i, v in enumerate(values))


@dataclass(frozen=True)
class PixelCNNSpec:
    """Wiring of a PixelCNN: how L mask-B layers and P 1x1 blocks form residual blocks.

    Raises TypeError or ValueError that names the field.
    """

    residual_scale: float = 1.0
    """Factor of every residual branch, at most a million."""
    block_convs: int = 1
    """Masked convolutions in a residual block: 1 or 2."""
    pointwise_after: tuple[int, ...] | None = None
    """Residual block after which each 1x1 block stands; default: block p after residual block p."""
    visible_stride: int = 1
    """Image pixels whose row or column is no multiple of it are fed to the network as 0."""

    def __post_init__(self) -> None:
        _normalise(
            self,
            residual_scale=(-1e6, 1e6),
            block_convs=(1, 2),
            pointwise_after=(0, MOST_BLOCKS),
            visible_stride=(1, MOST),
        )

    def pointwise_positions(self, pointwise_blocks: int, layers: int) -> tuple[int, ...]:
        """`pointwise_after` with its default filled in, for P 1x1 blocks and L mask-B layers.

        Raises ValueError where the wiring does not fit these numbers.
        """
        layers, pointwise_blocks = whole("layers", layers), whole("pointwise_blocks", pointwise_blocks)
        if layers % self.block_convs:
            raise ValueError(f"spec: block_convs: a divisor of {layers} layers wanted, got {self.block_convs}")
        after = tuple(range(pointwise_blocks)) if self.pointwise_after is None else self.pointwise_after
        blocks = layers // self.block_convs
        if blocks == 0 and pointwise_blocks:
            raise ValueError(f"spec: no 1x1 blocks without mask-B layers wanted, got {pointwise_blocks}")
        if len(after) != pointwise_blocks or any(not 0 <= position < blocks for position in after):
            raise ValueError(
                f"spec: pointwise_after with {pointwise_blocks} positions (one for each 1x1 block) in 0..{blocks - 1} "
                f"wanted, got {shown(after)}"
            )
        return after

    def stages(self, layers: int, pointwise_blocks: int) -> tuple[tuple[int, int, int], ...]:
        """The convolutions behind the first, in the order in which a pixel runs through them, as a table of numbers.

        A row is (taps, index, closes): taps 5 for the mask-B layer `index`; 1 for a 1x1 convolution, the first or
        second of block `index // 2`. Where `closes` is 1 a residual block ends, and the next row begins another one.
        Raises ValueError where the wiring does not fit L mask-B layers and P 1x1 blocks.
        """
        after = self.pointwise_positions(pointwise_blocks, layers)
        rows: list[tuple[int, int, int]] = []
        for block in range(layers // self.block_convs):
            last = (block + 1) * self.block_convs - 1
            rows += [(5, layer, int(layer == last)) for layer in range(block * self.block_convs, last + 1)]
            rows += [(1, 2 * p + i, i) for p, position in enumerate(after) if position == block for i in range(2)]
        return tuple(rows)


@dataclass(frozen=True)
class VLAEConfig:
    """A model: the paper's appendix A by default.

    Fields take numbers of Python, numpy and torch, and lists. Raises TypeError or ValueError that names the field where
    one makes no sense or is beyond what can be meant: sides, channels, units and dimensions of z go up to 65,536,
    layers, blocks and steps up to 1,024, halvings of the image up to 16, and no tensor holds more than 2**30 numbers.
    """

    height: Annotated[int, Suppress] = 28
    """Rows of an image, pixels. No flag of its own: the data tell."""
    width: Annotated[int, Suppress] = 28
    """Columns of an image, pixels. No flag of its own: the data tell."""
    conditioning: Literal["latent", "map", "none"] = "latent"
    """What the decoder is conditioned on: a latent code (a VAE), a learned constant map, or nothing."""
    prior: Literal["af", "gaussian"] = "af"
    """p(z): an autoregressive flow, or a standard normal."""
    posterior: Literal["gaussian", "iaf"] = "gaussian"
    """q(z|x): a diagonal Gaussian, or an inverse autoregressive flow from one."""
    decoder: Literal["pixelcnn", "factorized"] = "pixelcnn"
    """p(x|z): a PixelCNN, or independent pixels."""
    latent_size: int = 64
    """Dimensions of z."""
    encoder_channels: tuple[int, ...] = (16, 32, 32)
    """Feature maps after each halving of the image; the decoder mirrors them."""
    dense_units: int = 450
    """Units of the dense layer between feature maps and z."""
    flow_steps: int = 4
    """MADE steps of a flow."""
    flow_hidden: int = 640
    """Hidden units of a MADE, in each of two layers."""
    flow_scale: bool = False
    """Let each step scale its variables too, not only shift them."""
    context_maps: int = 4
    """Feature maps from the decoder to the PixelCNN."""
    pixelcnn_channels: int = 12
    """Feature maps of a masked convolution."""
    pixelcnn_layers: int = 12
    """Mask-B layers, the input layer not counted; they set the window: n layers see n + 1 pixels around."""
    pointwise_blocks: int = 4
    """1x1 residual blocks."""
    tied: bool = False
    """Share one weight among the mask-B layers (gains and biases stay apart)."""
    wiring: PixelCNNSpec = PixelCNNSpec(block_convs=2)
    """How the PixelCNN's layers form residual blocks."""

    def __post_init__(self) -> None:
        sizes = dict.fromkeys(("height", "width", "latent_size", "encoder_channels", "dense_units"), (1, MOST))
        sizes |= dict.fromkeys(("flow_hidden", "context_maps", "pixelcnn_channels"), (1, MOST))
        counts = dict.fromkeys(("pixelcnn_layers", "pointwise_blocks"), (0, MOST_BLOCKS))
        _normalise(self, **sizes, **counts, flow_steps=(1, MOST_BLOCKS))
        if not 1 <= len(self.encoder_channels) <= 16:
            raise ValueError(f"encoder_channels: 1 to 16 numbers wanted, got {len(self.encoder_channels)}")
        self._check_tensors()
        if self.conditioning != "latent":
            choice("decoder", self.decoder, ("pixelcnn",))  # nothing else is left where there is no latent code
        self.wiring.stages(self.pixelcnn_layers, self.pointwise_blocks)

    def _check_tensors(self) -> None:
        """Each field is within its bounds: so are their products?"""
        C, K, L, P = self.pixelcnn_channels, self.context_maps, self.pixelcnn_layers, self.pointwise_blocks
        D, M, T, channels = self.latent_size, self.flow_hidden, self.flow_steps, self.encoder_channels
        coded = channels[-1] * -(-self.height // 2 ** len(channels)) * -(-self.width // 2 ** len(channels))
        for fields, numbers in {
            "height, width, pixelcnn_channels, context_maps": self.height * self.width * max(C, K),
            "pixelcnn_channels, pixelcnn_layers, pointwise_blocks": C * C * max(9 * L, 2 * P),
            "pixelcnn_channels, context_maps": 9 * C * (1 + K),
            "encoder_channels, context_maps": 9 * max(channels) * max(*channels, K),
            "height, width, encoder_channels, dense_units": self.dense_units * coded,
            "dense_units, latent_size": self.dense_units * 2 * D,
            "flow_steps, flow_hidden, latent_size": T * M * max(M, 2 * D),
            "flow_steps, flow_hidden, dense_units": T * M * self.dense_units,
        }.items():
            if numbers > MOST_NUMBERS:
                raise ValueError(f"{fields}: tensors of at most {MOST_NUMBERS:,} numbers wanted, got {numbers:,}")

    @staticmethod
    def preset(name: str) -> "VLAEConfig":
        """A named configuration: "paper", or "tiny" for tests. Raises ValueError for another name."""
        return _PRESETS[choice("preset", name, tuple(_PRESETS))]


_PRESETS = {
    "paper": VLAEConfig(),
    "tiny": VLAEConfig(
        latent_size=8,
        encoder_channels=(4, 8),
        dense_units=16,
        flow_steps=2,
        flow_hidden=24,
        context_maps=2,
        pixelcnn_channels=4,
        pixelcnn_layers=2,
        pointwise_blocks=1,
        tied=True,
        wiring=PixelCNNSpec(),
    ),
}


@dataclass(frozen=True)
class TrainConfig:
    """A training: the paper's appendix A by default.

    Raises TypeError or ValueError that names the field where one makes no sense or is beyond what can be meant: batches
    go up to 65,536 images, times and counts up to a thousand million, texts up to 4,096 characters.
    """

    data: str = "static-mnist"
    """static-mnist, dynamic-mnist, omniglot, caltech101, digits, or a path (./digits where it is called so) to .npy,
    .npz, idx, CSV or a folder of PNGs of one size, which may lie in folders in it."""
    data_dir: str = ""
    """Folder of the published files; default: $VLAE_DATA, else ./data."""
    data_order: Literal["shuffled", "file"] = "shuffled"
    """Own images without validation or test images: hold a tenth out for each, at random or from the end."""
    image_size: str = ""
    """HEIGHTxWIDTH of own images that come as rows of numbers, in pixels, like 28x28."""
    train_on: Literal["train", "train+validation"] = "train"
    """Images to learn from. With the validation images among them, the last weights count, not those best on these."""
    start_from: str = ""
    """Model to learn on from, in place of random weights: its folder, or the name of shipped weights."""
    batch_size: int = 32
    """Images of a step."""
    learning_rate: float = 0.002
    """Step size of Adamax."""
    anneal_from: float = 0.0
    """Epoch from which the step size falls, in a straight line ..."""
    anneal_to: float = 0.0
    """... to nothing at this epoch, where the training ends; 0: it stays as it is."""
    polyak: float = 0.998
    """Share of the averaged weights that each step keeps; step t at most (1 + t) / (10 + t)."""
    free_bits: Literal["hard", "soft"] = "hard"
    """hard: the KL below the free nats costs nothing; soft: the weight of the KL is steered until it meets them."""
    free_bits_nats_per_pixel: float = 0.01
    """KL that is free, nats for each pixel of an image: the paper's number, 7.84 nats for 28x28 pixels."""
    free_bits_groups: Literal["all", "dimension"] = "all"
    """Count the free nats over all of z at once, or an equal share for each dimension."""
    gradient_clip: float = 10.0
    """A gradient that is longer than so many times the running mean of its norm is scaled down to that."""
    validation_images: int = 2000
    """Images of the validation split that each validation looks at, drawn at random once."""
    validation_epochs: float = 1.0
    """Epochs from one validation (metrics, sample grid, weights written) to the next."""
    checkpoint_minutes: float = 2.0
    """Minutes from one written state to the next: what a killed run can lose."""
    seed: int = 0
    """Seed of the initial weights, the order of the images and all noise."""

    def __post_init__(self) -> None:
        positive = dict.fromkeys(("gradient_clip", "validation_epochs", "checkpoint_minutes"), (1e-9, 1e9))
        others = dict.fromkeys(("anneal_from", "anneal_to", "free_bits_nats_per_pixel"), (0.0, 1e9))
        _normalise(
            self,
            **positive,
            **others,
            learning_rate=(1e-12, 1000.0),
            batch_size=(1, MOST),
            validation_images=(1, 10**9),
            polyak=(0.0, 1.0 - 2**-24),
        )
        if not (self.anneal_from < self.anneal_to or self.anneal_to == self.anneal_from == 0):
            raise ValueError(
                f"anneal_to: 0, or more than anneal_from = {self.anneal_from:g} wanted, got {self.anneal_to:g}"
            )


def of_this_version(run: Any) -> Any:
    """What the config.json of a run holds, in the fields that a TrainConfig has now; anything else stays as it is.

    Free bits were once said in nats an image, and the gradient's limit in absolute numbers.
    """
    try:
        model, training = run["model"], dict(run["training"])
        per_pixel = training.pop("free_bits_nats") / (model["height"] * model["width"])
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return run
    training.pop("gradient_limit", None)
    return {**run, "training": {**training, "free_bits_nats_per_pixel": per_pixel}}


def from_dict(cls: type[T], values: Any, where: str) -> T:
    """A config dataclass from what a JSON file holds; raises ValueError that names `where` and the field."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: an object wanted, got {shown(values)}")
    hints = get_type_hints(cls)
    for name in values:
        if name not in hints:
            raise ValueError(f"{where}: unknown field {shown(name)}")
    nested = {name: hints[name] for name in values if dataclasses.is_dataclass(hints[name])}
    try:
        return cls(**{k: from_dict(nested[k], v, k) if k in nested else v for k, v in values.items()})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None
