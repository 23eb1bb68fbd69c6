"""`vlae-fast info` and `vlae-fast data`."""

import dataclasses
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch

from vlae_fast import __version__, native, pretrained
from vlae_fast.data.download import download
from vlae_fast.extra import cli_extra
from vlae_fast.model import VLAE

with cli_extra():
    from tyro.conf import Positional, arg

__all__ = ["Data", "Info"]


@dataclass
class Info:
    """What runs here, and what a run folder holds."""

    run: Positional[Annotated[Path | None, arg(metavar="[RUN]")]] = None
    """Run folder, folder of a saved model or name of shipped weights."""

    def __call__(self) -> int:
        """Returns the exit status."""
        print(f"vlae_fast        {__version__}")
        print(f"Python, torch    {platform.python_version()}, {torch.__version__}")
        usable = ", ".join(native.usable_isas())
        print(f"CPU bodies       {native.isa()} (of {usable}), {torch.get_num_threads()} threads")
        print(f"shipped weights  {', '.join(pretrained.shipped())}")
        print(f"CUDA device      {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}")
        if self.run is None:
            return 0
        model = VLAE.from_pretrained(self.run)
        print(f"\n{self.run}")
        for name, child in model.named_children():
            print(f"{name:<16} {sum(p.numel() for p in child.parameters()):,} parameters")
        for f in dataclasses.fields(model.config):
            print(f"{f.name:<16} {getattr(model.config, f.name)}")
        return 0


@dataclass
class Data:
    """Fetch the published files of a data set; a transfer that broke off goes on where it stopped."""

    action: Positional[Literal["download"]]
    """What to do."""
    name: Positional[Literal["static-mnist", "dynamic-mnist", "omniglot", "caltech101"]]
    """Data set."""
    data_dir: Path | None = None
    """Folder to put the files into; default: $VLAE_DATA, else ./data."""

    def __call__(self) -> int:
        """Returns the exit status."""
        for path in download(self.name, self.data_dir):
            print(f"{path}: checksum fits")
        return 0
