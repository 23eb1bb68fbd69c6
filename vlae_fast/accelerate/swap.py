"""What stands in for a slow method of a transform, on the object itself: a copy or a pickle of it keeps that."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vlae_fast.accelerate.net import Net, UnsupportedError
from vlae_fast.checks import NonFiniteError

__all__ = ["Swap"]


class Swap:
    """Called in place of `module.<method>`. Subclasses say which, what its net is and what is returned."""

    method: str

    def __init__(self, module: Any) -> None:
        self.module = module
        self._parts: list[nn.Module] = []
        self._nets: dict[bool, Net] = {}
        self.net(False)  # an UnsupportedError shows now

    def describe(self, with_context: bool) -> Net:
        """The net. Raises UnsupportedError where it is of another kind."""
        raise NotImplementedError

    def original(self) -> Any:
        """The library's own method."""
        return getattr(type(self.module), self.method).__get__(self.module)

    def net(self, with_context: bool) -> Net:
        """The net, read once."""
        if with_context not in self._nets:
            self._nets[with_context] = self.describe(with_context)
        return self._nets[with_context]

    def inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """x and log_det of rows y [N, D] and context [N or 1, .]; None where the library has to do it itself."""
        if torch._C._get_tracing_state() is not None or self.obstacle():
            return None
        try:
            return self.net(context is not None).inverse(y, context)
        except (UnsupportedError, NonFiniteError, NotImplementedError):
            return None

    def obstacle(self) -> str:
        """Why the library would do it itself now, whatever it is called with; empty where it would not."""
        parts = [*_modules(self.parts())]
        if parts != self._parts:  # another layer in place of one: the net is to be read anew
            self._parts, self._nets = parts, {}
        for part in parts:
            if isinstance(part, nn.Linear):
                weight = part.weight
                if weight.dtype != torch.float32:
                    return f"weights of {weight.dtype}"
                if weight.device.type != "cpu":
                    return f"weights on {weight.device}"
            elif part.training and isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0:
                return "dropout in training mode"
            elif part.training and isinstance(part, nn.modules.batchnorm._BatchNorm):
                return "batch norm in training mode"
            if part._forward_hooks or part._forward_pre_hooks or (part is not self.module and "forward" in vars(part)):
                return "hooks or methods of their own in its net"
        return ""

    def parts(self) -> nn.Module:
        """The module of the net."""
        module: nn.Module = self.module
        return module

    def install(self) -> None:
        """Takes the method's place."""
        self.module.__dict__[self.method] = self

    def remove(self) -> None:
        """Gives it back."""
        del self.module.__dict__[self.method]

    def __getstate__(self) -> dict[str, Any]:
        return {"module": self.module}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.module, self._parts, self._nets = state["module"], [], {}


def _modules(module: nn.Module) -> Iterator[nn.Module]:
    """`module.modules()`, quicker."""
    yield module
    for child in module._modules.values():
        if child is not None:
            yield from _modules(child)
