"""The one table of what is timed: by `make bench`, `make bench-compare`, the GPU report and its predictions."""

from collections.abc import Iterator
from importlib import import_module

from benchmarks.case import Case
from benchmarks.ops import STEMS

CASES: dict[str, tuple[Case, ...]] = {stem: import_module(f"benchmarks.ops.{stem}").CASES for stem in STEMS}


def every() -> Iterator[Case]:
    for cases in CASES.values():
        yield from cases


def named(op: str) -> Case:
    return next(case for case in every() if case.op == op)
