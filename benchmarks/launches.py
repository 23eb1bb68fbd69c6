"""The GPU bodies that a case takes, without a GPU at hand: recorded as the compiled body of the CPU runs it."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.case import Call
from vlae_fast import gpu


class _Recorder(TorchDispatchMode):
    """Remembers the calls of our operators: (name, arguments)."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "vlae_fast":
            self.calls.append((func._schema.name.split("::")[1], args))
        return func(*args, **(kwargs or {}))


def bodies(call: Call, device: str = "cpu") -> dict[str, Callable[[], Any]]:
    """The name of each operator that a call takes -> its GPU body on the same arguments, moved to the device."""

    def moved(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [moved(v) for v in value]
        return value.to(device) if isinstance(value, Tensor) else value

    with _Recorder() as recorder:
        call()
    found = {}
    for name, arguments in recorder.calls:
        found[name] = lambda body=getattr(gpu, name), arguments=moved(arguments): body(*arguments)
    return found
