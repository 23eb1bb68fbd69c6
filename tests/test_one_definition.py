"""No two sources of csrc/ give one name two bodies, and no function is shared between instruction sets.

The linker keeps one definition of an inline function, whichever comes first. So the sources are compiled without
optimisation, where every inline function that is used has a body of its own, and the bodies are compared.
"""

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMPILED_ONCE = {"dispatch", "parallel", "native", "cuda", "normal"}
SOURCES = [
    path
    for path in sorted((ROOT / "csrc").glob("*/*.cpp"))
    if path.stem not in COMPILED_ONCE and path.parent.name != "wasm"  # for another processor
]
ISA = "baseline"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the assembler of ELF")


@cache
def assembly(source: Path) -> str:
    command = [
        os.environ.get("CXX", "c++"),
        "-std=c++20",
        "-O0",
        "-w",
        f"-DVLAE_ISA={ISA}",
        f"-I{ROOT / 'csrc'}",
        "-S",
        source,
        "-o",
        "-",
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def shared_definitions(text: str) -> dict[str, str]:
    """Bodies of all that a linker merges with the same name elsewhere; local labels numbered, constants spelled out."""
    shared = set(re.findall(r"^\s*\.weak\s+(\S+)", text, re.MULTILINE))
    blocks: dict[str, list[str]] = {}
    body: list[str] = []
    for line in text.splitlines():
        if label := re.match(r"([\w.$]+):", line):
            if not re.match(r"\.L(?!C)", line):  # code jumps to .L5; .LC5 is a constant
                body = blocks.setdefault(label[1], [])
                continue
        elif re.match(r"\s*\.(section|text|data|weak|globl|size|type)\b", line):
            body = []
        body.append(line)

    def body_of(name: str) -> str:
        numbers: dict[str, str] = {}

        def local(match: re.Match[str]) -> str:
            if match[0] in blocks:
                return str(re.findall(r"\.(?:long|quad|value|byte)\s+\S+", "\n".join(blocks[match[0]])))
            return numbers.setdefault(match[0], f".{len(numbers)}")

        lines = (line for line in blocks[name] if not re.match(r"\s*\.(cfi|loc)", line))
        return re.sub(r"\.L\w+", local, "\n".join(lines))

    return {name: body_of(name) for name in shared & blocks.keys()}


def clashes(sources: list[Path]) -> dict[str, set[str]]:
    """Names that have several bodies, and where."""
    found: dict[str, dict[str, set[str]]] = {}
    for source in sources:
        for name, body in shared_definitions(assembly(source)).items():
            found.setdefault(name, {}).setdefault(body, set()).add(source.name)
    return {name: set().union(*bodies.values()) for name, bodies in found.items() if len(bodies) > 1}


def test_a_name_has_one_body():
    assert clashes(SOURCES) == {}


def test_instruction_sets_share_no_function():
    shared = {name for source in SOURCES for name in shared_definitions(assembly(source))}
    others = {name for name in shared if f"{len(ISA)}{ISA}" not in name}
    assert len(shared) > 50
    assert others == {"DW.ref.__gxx_personality_v0"}  # an address, for exceptions


@pytest.mark.parametrize("change", [("4", "32"), ("4", "8"), ("0.5f", "0.25f")], ids=str)
def test_two_bodies_are_found(tmp_path, change):
    code = "inline float f(float x, int n) { return n / 4 * 4 + x * 0.5f; } inline int g(int n) { return n + 4; }"
    code += " int {name}(int n) { return g(n) + int(f(1, n)); }"
    first, same, other = (tmp_path / f"{name}.cpp" for name in ("first", "same", "other"))
    first.write_text(code.replace("{name}", "a"))
    same.write_text(code.replace("{name}", "b"))
    other.write_text(code.replace("{name}", "c").replace(*change, 1))
    assert clashes([first, same]) == {}
    assert clashes([first, same, other]) == {"_Z1ffi": {"first.cpp", "same.cpp", "other.cpp"}}
