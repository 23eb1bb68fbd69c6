"""The checks of what an op takes: `Arguments` with messages for people, `operands` for the compiled bodies.

Both read the table of shapes in `params`. `operands` makes sure that no call, however made, lets a kernel read or write
out of bounds. Neither looks at values (`values` does): nothing waits for a GPU.
"""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from vlae_fast import params as table
from vlae_fast.ops.backend import reference_chosen

__all__ = ["Arguments", "Params", "addresses", "operands", "transforms_in_force"]

Params = Sequence[Tensor]
"""The fields of PixelCNNParams or MADEFlowParams, in order."""
Named = TypeVar("Named", bound=tuple[Tensor, ...])
_HALF = (torch.float16, torch.bfloat16)
_AXES = {
    (op, name): [(letter, int(letter) if letter.isdigit() else None) for letter in shape.split()]
    for op, shapes in table.SHAPES.items()
    for name, shape in shapes.items()
}
"""Letter (or number) of every axis of a tensor, and its size where that is a number."""


def _fits(axes: list[tuple[str, int | None]], shape: torch.Size, sizes: dict[str, int]) -> bool:
    """Whether a shape has these axes. Letters that are new get their sizes from it."""
    fits = len(axes) == len(shape)
    for (letter, number), n in zip(axes, shape, strict=False):
        fits = fits and n == (sizes.setdefault(letter, n) if number is None else number)
    return fits


# torch passes registered operators by in forward mode (their tangent would be 0, silently), and refuses them in all
# transforms of torch.func but vmap (with an error that helps nobody).


def transforms_in_force() -> bool:
    """Is forward-mode differentiation or a transform of torch.func under way?"""
    if forward_ad._current_level >= 0:  # also within torch.func.jvp and jacfwd
        return True
    return not torch.compiler.is_compiling() and torch._C._functorch.maybe_current_level() is not None


def _followed(value: Tensor) -> bool:
    """Is the tensor being differentiated by one of them?"""
    if not torch.compiler.is_compiling():  # it traces none of these questions
        while torch._C._functorch.is_batchedtensor(value):
            value = torch._C._functorch.get_unwrapped(value)
        if torch._C._functorch.is_gradtrackingtensor(value):
            return True
    return forward_ad.unpack_dual(value).tangent is not None


class Arguments:
    """Checks the tensors of one call: equal letters mean equal sizes, and all share one dtype and one device.

    `drawing`: the call draws, so what it takes counts as constant to every kind of differentiation.
    """

    def __init__(self, op: str, drawing: bool = False) -> None:
        self.op = op
        self.sizes: dict[str, int] = {}
        self.reference = reference_chosen()
        self.drawing = drawing
        self.transformed = not self.reference and not drawing and transforms_in_force()
        self.first: str | None = None
        self.dtype: torch.dtype
        self.device: torch.device

    def optional(self, name: str, value: Tensor | None) -> Tensor | None:
        """`tensor`, or None."""
        return None if value is None else self.tensor(name, value)

    def params(self, params: Named) -> Named:
        """The params of the op, every field of them a `tensor`."""
        wanted = table.PARAMS[self.op]
        if not isinstance(params, wanted):
            raise TypeError(f"params: {wanted.__name__} wanted, got {type(params).__name__}")
        fields = zip(wanted._fields, params, strict=True)
        checked = type(params)(*(self.tensor(f"params.{name}", value) for name, value in fields))
        table.check_sizes(self.op, self.sizes)
        return checked

    def tensor(self, name: str, value: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
        """`of_any_shape`, once it is known to have this shape (None: that of its name). Raises ValueError else."""
        value = self.of_any_shape(name, value)
        if shape is None:
            self._check_shape(name, value.shape)
        elif value.shape != shape:
            raise ValueError(f"{name}: shape {list(shape)} wanted, got {list(value.shape)}")
        return value

    def of_any_shape(self, name: str, value: Tensor) -> Tensor:
        """`value`, contiguous, once it is known to have the dtype of its name.

        Under torch.autocast half-precision values are widened, as for torch's own ops that want float32.
        Raises TypeError (no tensor, wrong dtype), ValueError (wrong device) or NotImplementedError (a tensor
        that a transform follows which compiled bodies know nothing of) that names the argument.
        """
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: a tensor wanted, got {type(value).__name__}")
        if self.drawing:
            value = value.detach()
        elif self.transformed and _followed(value):
            raise NotImplementedError(
                f"{name}: compiled bodies have gradients by autograd's backward alone; forward-mode differentiation "
                "and torch.func run under vlae_fast.use_backend('reference')"
            )
        dtype = table.DTYPES.get(name)
        if value.dtype in _HALF and dtype is None and torch.is_autocast_enabled(value.device.type):
            value = value.float()
        if self.first is None:
            self._set_first(name, value)
        if value.is_nested or value.layout != torch.strided:
            got = "a nested one" if value.is_nested else f"layout {value.layout}"
            raise TypeError(f"{name}: a dense tensor wanted, got {got}")
        if value.device != self.device:
            raise ValueError(f"{name}: device {self.device} (that of {self.first}) wanted, got {value.device}")
        if value.dtype != (dtype or self.dtype):
            mend = "; float64 runs under use_backend('reference')" if value.dtype == torch.float64 else ""
            raise TypeError(f"{name}: {dtype or self.dtype} wanted, got {value.dtype}{mend}")
        return value.contiguous()

    def _check_shape(self, name: str, shape: torch.Size) -> None:
        """Against the table. Letters that are new get their sizes from it."""
        axes, before = _AXES[self.op, name], set(self.sizes)
        if not _fits(axes, shape, self.sizes):
            wanted = ", ".join(f"{a}={self.sizes[a]}" if a in before else a for a, _ in axes)
            raise ValueError(f"{name}: shape [{wanted}] wanted, got {list(shape)}")

    def _set_first(self, name: str, value: Tensor) -> None:
        """The first tensor tells the device, and under the reference backend the dtype."""
        if not self.reference and value.device.type not in ("cpu", "cuda"):
            raise ValueError(
                f"{name}: no compiled body for the device {value.device}; "
                "move the tensors to the CPU or a GPU, or use vlae_fast.use_backend('reference')"
            )
        floating = self.reference and value.dtype.is_floating_point
        self.first, self.device, self.dtype = name, value.device, value.dtype if floating else torch.float32


def operands(op: str, device: torch.device | None, params: Params = (), **tensors: Tensor | None) -> dict[str, int]:
    """The sizes of a call by their letters, once every tensor is what the compiled bodies take it for.

    All are contiguous, of their shapes and dtypes and on the device (None: that of the first). Raises TypeError (no
    tensor) or ValueError.
    """
    if op in table.PARAMS:
        fields = table.PARAMS[op]._fields
        if len(params) != len(fields):
            raise ValueError(f"params: {len(fields)} tensors wanted, got {len(params)}")
        tensors |= {f"params.{field}": value for field, value in zip(fields, params, strict=True)}
    sizes: dict[str, int] = {}
    for name, tensor in tensors.items():
        if tensor is None and name in table.OPTIONAL:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: a tensor wanted, got {type(tensor).__name__}")
        device = device or tensor.device
        dtype = table.DTYPES.get(name, torch.float32)
        if not (
            _fits(_AXES[op, name], tensor.shape, sizes)
            and tensor.dtype == dtype
            and tensor.device == device
            and tensor.layout == torch.strided
            and tensor.is_contiguous()
        ):
            wanted = [sizes.get(letter, number) for letter, number in _AXES[op, name]]
            raise ValueError(
                f"{name}: a contiguous {dtype} tensor of shape {wanted} on {device} wanted, got "
                f"{tensor.dtype} {list(tensor.shape)} of strides {_strides(tensor)} on {tensor.device}"
            )
    table.check_sizes(op, sizes)
    return sizes


def addresses(*tensors: Tensor | None) -> list[int]:
    """Where the tensors stand in memory; 0 for None."""
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


def _strides(tensor: Tensor) -> list[int] | str:
    return list(tensor.stride()) if tensor.layout == torch.strided else str(tensor.layout)
