"""Entropy coders, one a lane: range asymmetric numeral systems (Duda 2013, arXiv:1311.2540).

A coder is a stack. A symbol is an interval [start, start + frequency) of 2**bits slots; pushing it makes the stack
-log2(frequency / 2**bits) bits larger, and popping it undoes that exactly, on any state. So what is popped under a
distribution that was never pushed is a draw from it, at the cost of the bits it takes (bits back).

`Coders` is the meaning; csrc/codec does the same inside the sampler (`csrc/codec/ans.h`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlae_fast import _native

__all__ = ["Coders"]

_WORD = np.uint64(32)
_FULL = np.uint64(1 << 32)
Numbers = NDArray[Any] | int


class Coders:
    """Stacks of a 64-bit state and 32-bit words each; a state is below 2**32 only where no word is left.

    `reserve` makes the room for what is pushed, a word a symbol; nothing else looks whether there is any.
    """

    def __init__(self, lanes: int) -> None:
        self.state: NDArray[np.uint64] = np.zeros(lanes, np.uint64)
        self.words: NDArray[np.int64] = np.zeros(lanes, np.int64)
        self.stack: NDArray[np.uint32] = np.zeros((lanes, 0), np.uint32)

    def __len__(self) -> int:
        return len(self.state)

    def reserve(self, words: int) -> None:
        """Makes room for so many words more on every stack."""
        room = int(self.words.max(initial=0)) + words
        if room > self.stack.shape[1]:
            self.stack = np.pad(self.stack, ((0, 0), (0, 2 * room - self.stack.shape[1])))

    def first(self, lanes: int) -> "Coders":
        """The first lanes: views, until `reserve` moves the stacks."""
        return self._rows(slice(lanes))

    @contextmanager
    def part(self, mask: NDArray[np.bool_]) -> Iterator["Coders"]:
        """These lanes, to push and pop on; they are copies, brought back at the end."""
        part = self._rows(mask)
        yield part
        self.state[mask], self.words[mask], self.stack[mask] = part.state, part.words, part.stack

    def _rows(self, lanes: Any) -> "Coders":
        part = Coders(0)
        part.state, part.words, part.stack = self.state[lanes], self.words[lanes], self.stack[lanes]
        return part

    def arguments(self) -> tuple[int, int, int, int]:
        """Coders of csrc/vlae.h."""
        return self.state.ctypes.data, self.words.ctypes.data, self.stack.ctypes.data, self.stack.shape[1]

    def push(self, bits: int, start: Numbers, frequency: Numbers) -> None:
        """A symbol on every lane."""
        start, frequency = (np.broadcast_to(np.asarray(a, np.uint64), self.state.shape) for a in (start, frequency))
        lanes = np.flatnonzero(self.state >= frequency << np.uint64(64 - bits))
        self.stack[lanes, self.words[lanes]] = self.state[lanes] & (_FULL - np.uint64(1))
        self.words[lanes] += 1
        self.state[lanes] >>= _WORD
        self.state[:] = (self.state // frequency << np.uint64(bits)) + self.state % frequency + start

    def slots(self, bits: int) -> NDArray[np.uint64]:
        """What the intervals of the symbols on top contain."""
        return self.state & np.uint64((1 << bits) - 1)

    def pop(self, bits: int, start: Numbers, frequency: Numbers) -> None:
        """The symbol on top of every lane, as `push` takes it."""
        start, frequency = (np.broadcast_to(np.asarray(a, np.uint64), self.state.shape) for a in (start, frequency))
        self.state[:] = frequency * (self.state >> np.uint64(bits)) + self.slots(bits) - start
        lanes = np.flatnonzero((self.state < _FULL) & (self.words > 0))
        self.words[lanes] -= 1
        self.state[lanes] = self.state[lanes] << _WORD | self.stack[lanes, self.words[lanes]]

    def push_number(self, bits: int, number: Numbers) -> None:
        """A number below 2**bits, all of them alike."""
        if bits:
            self.push(bits, number, 1)

    def pop_number(self, bits: int) -> NDArray[np.uint64]:
        """The number on top of every lane."""
        numbers = self.slots(bits)
        if bits:
            self.pop(bits, numbers, 1)
        return numbers

    def push_normal(self, z: NDArray[np.float32], grid: float, moments: Any = None) -> None:
        """Multiples z [lanes, D] of `grid` under normal distributions: means, standard deviations; None: 0 and 1."""
        self._normal(z, grid, moments, False)

    def pop_normal(self, D: int, grid: float, moments: Any = None) -> NDArray[np.float32]:
        """The multiples of `grid` [lanes, D] on top."""
        z = np.empty((len(self), D), np.float32)
        self._normal(z, grid, moments, True)
        return z

    def _normal(self, z: NDArray[np.float32], grid: float, moments: Any, pop: bool) -> None:
        arrays = [] if moments is None else [np.ascontiguousarray(a, np.float32) for a in moments]
        z = z if pop else np.ascontiguousarray(z)
        addresses = [a.ctypes.data for a in arrays] or [0, 0]
        _native.normal_code(len(self), z.shape[1], grid, *addresses, self.arguments(), pop, z.ctypes.data)

    def to_bytes(self) -> list[bytes]:
        """Each lane: its words, then its state without leading zeros."""
        lanes = zip(self.state.tolist(), self.words.tolist(), self.stack.astype("<u4"), strict=True)
        return [row[:n].tobytes() + state.to_bytes((state.bit_length() + 7) // 8, "little") for state, n, row in lanes]

    @classmethod
    def from_bytes(cls, lanes: list[bytes]) -> "Coders":
        """What `to_bytes` gave. Raises ValueError where it cannot have given that."""
        coders = cls(len(lanes))
        counts = [max(0, len(data) - 5) // 4 if len(data) > 8 else 0 for data in lanes]  # a state over words has 5 to 8
        coders.reserve(max(counts, default=0))
        for n, (data, count) in enumerate(zip(lanes, counts, strict=True)):
            state = int.from_bytes(data[4 * count :], "little")
            if (count and state < 1 << 32) or data[-1:] == b"\0":
                raise ValueError("no such coder")
            coders.state[n], coders.words[n] = state, count
            coders.stack[n, :count] = np.frombuffer(data[: 4 * count], "<u4")
        return coders
