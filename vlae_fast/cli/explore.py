"""`vlae-fast explore`."""

from dataclasses import dataclass
from pathlib import Path

from vlae_fast import checkpoint, explore, pretrained
from vlae_fast.cli.common import Run, Speaking
from vlae_fast.extra import cli_extra
from vlae_fast.model import VLAE
from vlae_fast.run_folder import check_output

with cli_extra():
    from tyro.conf import Positional

__all__ = ["Explore"]


@dataclass(kw_only=True)
class Explore(Speaking):
    """Write a page in which one plays with a model: one file, for any browser, without a server or a network."""

    run: Positional[Run]
    """Run folder, folder of a saved model or name of shipped weights."""
    out: Path
    """File to write: .html."""

    def __call__(self) -> int:
        """Returns the exit status."""
        self.out = check_output("out", self.out, (".html",))
        model = VLAE.from_pretrained(self.run)
        content = checkpoint.read_json(pretrained.folder_of(self.run) / "config.json")
        page = explore.page(model, name=self.run.resolve().name, trained_on=str(content.get("data", "")))
        checkpoint.write_file(self.out, page)
        self.say_of(self.out, f"{len(page):,} bytes; open it in a browser")
        return 0
