"""Reads PTX text into the arrays that executor.cpp runs. What it does not know is an error that names it."""

import ctypes
import functools
import os
import re
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build/ptx"
CXXFLAGS = "-std=c++20 -O2 -ftree-vectorize -march=native -ffp-contract=off -fno-math-errno -fno-strict-aliasing"
WARNINGS = "-Wall -Wextra -Werror"
OPERANDS = 20
FILES = "wlp"
"""Words, longs, predicates."""
SPECIALS = {
    "%tid.x": 0, "%tid.y": 1, "%tid.z": 1, "%ctaid.x": 2, "%ctaid.y": 3, "%ctaid.z": 4, "%ntid.x": 5, "%ntid.y": 6,
    "%ntid.z": 6, "%nctaid.x": 7, "%nctaid.y": 8, "%nctaid.z": 9, "%laneid": 10,
}  # fmt: skip
"""Read-only registers, by enum Special."""


class UnknownPTXError(ValueError):
    """An instruction or directive that the executor does not know."""


@functools.cache
def library(flags: str = "") -> ctypes.CDLL:
    """executor.cpp, compiled where that is needed."""
    sources = [*HERE.glob("*.h"), HERE / "executor.cpp"]
    target = BUILD / f"executor{re.sub(r'[^a-z]', '', flags)}.so"
    if not target.exists() or target.stat().st_mtime < max(s.stat().st_mtime for s in sources):
        BUILD.mkdir(parents=True, exist_ok=True)
        new = target.with_suffix(f".{os.getpid()}")
        compiler = os.environ.get("CXX", "c++").split()
        options = f"{CXXFLAGS} {WARNINGS} {flags} -shared -fPIC".split()
        subprocess.run([*compiler, *options, "-o", str(new), str(HERE / "executor.cpp")], check=True)
        new.replace(target)
    found = ctypes.CDLL(str(target))
    found.ptx_opcode.restype = found.ptx_run.restype = ctypes.c_int64
    found.ptx_opcode.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
    for name in ("ptx_signature", "ptx_pipe"):
        getattr(found, name).restype = ctypes.c_char_p
        getattr(found, name).argtypes = [ctypes.c_int64]
    return found


@functools.cache
def opcode(name: str, operands: str) -> tuple[int, str]:
    """Number and signature of an opcode with these operands. Raises UnknownPTXError."""
    number = library().ptx_opcode(name.encode(), operands.encode())
    if number < 0:
        raise UnknownPTXError(f"{name} with operands {operands}")
    return number, library().ptx_signature(number).decode()


@dataclass
class Program:
    """A kernel."""

    name: str
    parameters: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Offset and bytes of each parameter, in order."""
    parameter_bytes: int = 0
    static_shared_bytes: int = 0
    code: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 6 + OPERANDS), np.int64))
    """A row an instruction: struct Instruction of machine.h."""
    texts: list[str] = field(default_factory=list)
    """Each instruction as it stands in the PTX."""
    sources: list[str] = field(default_factory=list)
    """Where each comes from, "file.py:line:column", as far as the PTX says."""
    registers: list[int] = field(default_factory=lambda: [0, 0, 0])
    """Count in each file."""
    constants: list[tuple[int, int, int]] = field(default_factory=list)
    """File, register, value."""
    specials: list[tuple[int, int]] = field(default_factory=list)
    """What, word register."""

    def pipes(self) -> list[str]:
        """What carries each instruction out."""
        return [library().ptx_pipe(int(row[0])).decode() for row in self.code]

    def find(self, opcode_name: str) -> list[int]:
        """Places of an opcode."""
        return [i for i, text in enumerate(self.texts) if _split(text)[1] == opcode_name]


_SIZES = {"8": 1, "16": 2, "32": 4, "64": 8}
_INSTRUCTION = re.compile(r"(?:@(!?)(%\w+)\s+)?([a-z][\w.:]*)\s*(.*)", re.DOTALL)
_OPERAND = re.compile(r"\[[^\]]*\]|[^,{}|\s]+")


def _split(text: str) -> tuple[tuple[str, str], str, list[str]]:
    """Guard (negation, register), opcode, operands."""
    match = _INSTRUCTION.fullmatch(text)
    if match is None:
        raise UnknownPTXError(text)
    return (match[1] or "", match[2] or ""), match[3], _OPERAND.findall(match[4])


def parse(ptx: str) -> dict[str, Program]:
    """All kernels of a PTX module."""
    ptx = re.sub(r"//(?! [\w.]+:\d+:\d+)[^\n]*", "", ptx)  # all comments but those of .loc
    shared: dict[str, int] = {}  # symbol -> offset
    static = 0
    for align, size, name, count in re.findall(r"\.shared\s+\.align\s+(\d+)\s+\.b(\d+)\s+(\w+)\[(\d*)\]", ptx):
        if count:  # else: what the launch asks for, behind the rest
            static = -(-static // int(align)) * int(align)
            shared[name] = static
            static += int(count) * _SIZES[size]
        else:
            shared.setdefault(name, -1)
    static = -(-static // 16) * 16
    shared = {name: static if offset < 0 else offset for name, offset in shared.items()}
    kernels = {}
    for match in re.finditer(r"\.entry\s+(\w+)\s*\((.*?)\)[^{;]*\{", ptx, re.DOTALL):
        end = _closing(ptx, match.end())
        kernels[match[1]] = _Reader(match[1], match[2], ptx[match.end() : end], shared, static).program
    return kernels


def _closing(text: str, start: int) -> int:
    """Place of the brace that closes the one before `start`."""
    depth = 1
    for brace in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.start()
    raise UnknownPTXError("a kernel without end")


class _Reader:
    """Turns the text of one kernel into a Program."""

    def __init__(self, name: str, parameters: str, body: str, shared: dict[str, int], static: int) -> None:
        self.program = Program(name, static_shared_bytes=static)
        self.shared = shared
        self.kinds: dict[str, int] = {"%p_switch": 2}  # prefix of registers -> file
        self.slots: dict[object, int] = {}
        self._parameters(parameters)
        statements, labels, label_name = [], {}, ""
        tables: dict[str, list[str]] = {}  # where a switch goes
        body = re.sub(r"^\s*\.loc\b.*?(?:// (\S+).*)?$", r"\1;", body, flags=re.MULTILINE)
        body = re.sub(r"^\s*\.(file|pragma|section)\b.*$", "", body, flags=re.MULTILINE)
        source = ""
        for statement in body.split(";"):
            text = statement.strip().lstrip("{} \n\t")
            while label := re.match(r"(\$?\w+):\s*", text):
                label_name = label[1]
                labels[label_name] = len(statements)
                text = text[label.end() :]
            if re.fullmatch(r"[\w.]+:\d+:\d+", text):
                source = text
            elif text.startswith(".reg"):
                kind, prefix = re.fullmatch(r"\.reg\s+\.(\w+)\s+(%\w+?)(?:<\d+>)?", text).groups()  # type: ignore[union-attr]
                self.kinds[prefix] = 2 if kind == "pred" else 1 if kind.endswith("64") else 0
            elif text.startswith(".branchtargets"):
                tables[label_name] = re.findall(r"\$?\w+", text.removeprefix(".branchtargets"))
            elif text.startswith("brx.idx"):
                _, index, table = re.split(r"[\s,]+", text)
                for i, target in enumerate(tables[table]):
                    statements += [f"setp.eq.s32 %p_switch, {index}, {i}", f"@%p_switch bra {target}"]
                    self.program.sources += [source, source]
            elif text.startswith("."):
                raise UnknownPTXError(text)
            elif text:
                statements.append(text)
                self.program.sources.append(source)
        self.labels = labels
        rows = [self._row(text) for text in statements]
        self.program.texts = statements
        self.program.code = np.array(rows, np.int64).reshape(-1, 6 + OPERANDS)
        for key, slot in self.slots.items():
            if isinstance(key, tuple):
                self.program.constants.append((key[0], slot, key[1]))
            elif key in SPECIALS:
                self.program.specials.append((SPECIALS[str(key)], slot))

    def _parameters(self, text: str) -> None:
        offset = 0
        pointer = r"(?:\s+\.ptr)?(?:\s+\.\w+)*?(?:\s+\.align\s+\d+)?"
        pattern = rf"\.param\s+(?:\.align\s+(\d+)\s+)?\.\w(\d+){pointer}\s+(\w+)(?:\[(\d+)\])?"
        for align, bits, name, count in re.findall(pattern, text):
            size = _SIZES[bits] * int(count or 1)
            step = int(align or _SIZES[bits])
            offset = -(-offset // step) * step
            self.program.parameters[name] = (offset, size)
            offset += size
        self.program.parameter_bytes = offset

    def _slot(self, file: int, key: object) -> int:
        if key not in self.slots:
            self.slots[key] = self.program.registers[file]
            self.program.registers[file] += 1
        return self.slots[key]

    def _file(self, register: str) -> int | None:
        """The file of a register; None for a number or symbol."""
        if register in SPECIALS:
            return 0
        if register[0] != "%":
            return 0 if register == "_" else None
        prefix = re.sub(r"\d+$", "", register)
        if prefix not in self.kinds:
            raise UnknownPTXError(register)
        return self.kinds[prefix]

    def _value(self, text: str) -> int:
        """The bits of a number, or where a symbol stands."""
        if text in self.shared:
            return self.shared[text]
        if text in self.program.parameters:
            return self.program.parameters[text][0]
        if text[:2] == "0f":
            return int(text[2:], 16)
        try:
            return int(text.removesuffix("U"), 0)
        except ValueError:
            raise UnknownPTXError(text) from None

    def _address(self, text: str) -> tuple[int, int]:
        """Register (-1: none) and offset of an operand in brackets."""
        slot, offset = -1, 0
        for part in re.split(r"\s*\+\s*", text[1:-1].strip()):
            if part[0] == "%":
                slot = self._slot(self._file(part) or 0, part)
            else:
                offset += self._value(part)
        return slot, offset

    def _row(self, text: str) -> list[int]:
        (negated, guard), name, operands = _split(text)
        name = name.replace("ld.param", "ld.parameter")
        row = [0] * (6 + OPERANDS)
        row[1] = self._slot(2, guard) if guard else -1
        row[2] = bool(negated)
        if name.split(".")[0] in ("bra", "bar") and name != "bar.warp.sync":
            row[0] = opcode(name.removesuffix(".uni"), ":-")[0]
            row[3] = self.labels[operands[0]] if name.startswith("bra") else 0
            return row
        letters = ["m" if o[0] == "[" else "?" if (f := self._file(o)) is None else FILES[f] for o in operands]
        results = _results(name, text)
        row[0], signature = opcode(name, "".join(letters[:results]) + ":" + "".join(letters[results:]))
        offsets = 4
        for i, (operand, letter) in enumerate(zip(operands, signature.replace(":", ""), strict=True)):
            if letter == "m":
                row[6 + i], row[offsets] = self._address(operand)
                offsets += 1
            elif self._file(operand) is None:
                value = self._value(operand)
                bits = 64 if letter == "l" else 32
                row[6 + i] = self._slot(FILES.index(letter), (FILES.index(letter), _signed(value, bits)))
            else:
                row[6 + i] = self._slot(FILES.index(letter), operand)
        return row


def _signed(value: int, bits: int) -> int:
    """The same bits as a number that int64 holds."""
    value &= (1 << bits) - 1
    return struct.unpack("q", struct.pack("Q", value))[0] if bits == 64 else value


def _results(name: str, text: str) -> int:
    """How many operands of an instruction are results."""
    kind = name.split(".")[0]
    if kind in ("st", "stmatrix", "cp") or name in ("bar.warp.sync", "wgmma.wait_group.sync.aligned"):
        return 0
    first = _INSTRUCTION.fullmatch(text)[4]  # type: ignore[index]
    if not first:
        return 0
    if first[0] == "{":
        return len(_OPERAND.findall(first[: first.index("}")]))
    return 2 if "|" in first.split(",")[0] else 1
