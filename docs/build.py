"""Writes a page for each public name from its docstrings: `make docs`, or `python docs/build.py build/docs`.

Ends with exit status 1 where a public name, a field or a method of it has no docstring.
"""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from pdoc import doc, render

MODULES = (
    "",
    ".ops",
    ".reference",
    ".data",
    ".data.download",
    ".train",
    ".evaluate",
    ".distributed",
    ".plots",
    ".accelerate",
    ".codec",
    ".explore",
)
VALUES = {"ALONE", "__version__", "FIXED_DRAW_SEED", "SPLIT_SEED"}
"""Re-exported plain values: they bring no docstring with them."""


def undocumented(item: doc.Doc) -> Iterator[str]:
    """Full names of what is ours and says nothing."""
    if not item.taken_from[0].startswith("vlae_fast"):
        return
    if not item.docstring and item.name != "__init__":
        yield item.fullname
    if isinstance(item, doc.Class):
        for member in item.members.values():
            if not member.name.startswith("_"):
                yield from undocumented(member)


def main() -> int:
    """Returns the exit status."""
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    missing: list[str] = []
    index: list[str] = []
    pages = 0
    render.configure(show_source=False)
    for suffix in MODULES:
        module = importlib.import_module(f"vlae_fast{suffix}")
        names = sorted(module.__all__, key=str.lower)
        index.append(f"\n## {module.__name__}\n\n{module.__doc__.splitlines()[0]}\n")
        for name in names:
            if name in VALUES or isinstance(getattr(module, name), ModuleType):
                continue
            module.__all__ = [name]  # pdoc documents what stands there
            page = doc.Module(module)
            missing += undocumented(page.members[name])
            file = f"{module.__name__}.{name}.html"
            (out / file).write_text(render.html_module(page, {}))
            index.append(f"- [`{name}`]({file})")
            pages += 1
        module.__all__ = names
    for text in sorted(Path(__file__).parent.glob("*.md")):
        title, content = text.read_text().removeprefix("# ").split("\n", 1)
        page = ModuleType(title)
        page.__doc__ = content
        (out / f"{text.stem}.html").write_text(render.html_module(doc.Module(page), {}))
        index.append(f"\n[{title}]({text.stem}.html)\n")
        pages += 1
    package = importlib.import_module("vlae_fast")
    package.__all__, package.__doc__ = [], f"{package.__doc__}\n" + "\n".join(index)
    (out / "index.html").write_text(render.html_module(doc.Module(package), {}))
    for name in sorted(set(missing)):
        print(f"{name}: no docstring")
    print(f"{out / 'index.html'}: {pages} pages")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
