"""What `make bench` and `make bench-compare` say can be trusted: no timing here, only what is made of times."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.case import OURS, Work, label
from benchmarks.compare import LAUNCHES, verdict
from benchmarks.gpu_report import markdown as gpu_markdown
from benchmarks.gpu_report import predicted
from benchmarks.ops import made, pixelcnn
from benchmarks.registry import every
from benchmarks.report import BEGIN, END, README_LINES, html, markdown, readme_block, with_block
from benchmarks.result_file import Results
from benchmarks.timing import Block, NotQuietError, pair_up, quartiles
from vlae_fast import masks

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PICTURE = re.search(r"\((benchmarks/results/[^)]*)\.png\)", README)


@pytest.fixture
def results() -> Results:
    assert PICTURE is not None
    return Results.read(ROOT / f"{PICTURE[1]}.json")


def test_readme_is_what_the_committed_results_say(results):
    assert PICTURE is not None
    assert with_block(README, readme_block(results, f"{PICTURE[1]}.png")) == README
    assert (ROOT / f"{PICTURE[1]}.png").stat().st_size < 200_000
    lines = README[README.index(BEGIN) : README.index(END)].splitlines()
    assert sum(line.startswith("|") for line in lines) == 2 + len(README_LINES)


def test_results_name_no_host_and_no_path(results):
    text = json.dumps(results.content)
    assert "/home" not in text
    assert "/root" not in text
    assert not {"node", "user", "machine_info"} & set(results.content)


def test_no_number_without_its_contender(results):
    for op in results.ops:
        for size, rows in results.groups(op).items():
            assert rows[0].contender == OURS, (op, size)
            assert len(rows) > 1, (op, size)


def test_no_call_is_faster_than_its_floor(results):
    for row in results.rows:
        assert row.median > row.floor_seconds, row


def test_report_holds_every_row_and_needs_no_other_file(results):
    page = html(results)
    assert page.count("<tr") - page.count("<caption") == len(results.rows)
    assert not re.search(r'(src|href)="(?!#)', page)
    tables = markdown(results).count("\n| ") - 2 * page.count("<caption")
    assert tables == len(results.rows)


def test_disturbed_pairs_are_set_aside_and_counted():
    blocks = iter([Block(1, True), Block(2, True), Block(9, False), Block(9, True)] * 20)
    pairs = pair_up(lambda: next(blocks), lambda: next(blocks), 5)
    assert pairs.ours == [1.0] * 5
    assert pairs.theirs == [2.0] * 5
    assert pairs.set_aside == 4
    assert quartiles(pairs.ratios()) == [2.0, 2.0, 2.0]


def test_a_busy_machine_gives_no_number():
    with pytest.raises(NotQuietError, match="30 of 30 pairs set aside"):
        pair_up(lambda: Block(1, False), lambda: Block(1, True), 3)


@pytest.mark.parametrize(
    ("medians", "word"),
    [
        ([1.2] * LAUNCHES, "slower"),
        ([1.19, 1.04, 0.9, *[1.2] * (LAUNCHES - 3)], "slower"),  # one launch may stray
        ([1.2] * (LAUNCHES - 2) + [1.0, 1.0], "same"),  # where two do not agree there is reason to doubt
        ([0.99, 1.01] * (LAUNCHES // 2), "same"),
        ([0.9] * LAUNCHES, "faster"),
    ],
)
def test_verdict(medians, word):
    assert verdict(medians).word == word


def test_floor_is_arithmetic_or_memory():
    probes = {
        "gflops": 100.0,
        "bandwidth": [
            {"bytes": 1000, "read_gbs": 50.0, "copy_gbs": 40.0},
            {"bytes": 2000, "read_gbs": 10.0, "copy_gbs": 20.0},
        ],
    }
    assert Work(1e9, 8).floor_seconds(probes) == pytest.approx(0.02)
    assert Work(1, 1000).floor_seconds(probes) == pytest.approx(1000 / 50e9)
    assert Work(1, 5000).floor_seconds(probes) == pytest.approx(5000 / 20e9)  # larger than any probe: the last


def test_multiply_adds_are_those_the_masks_leave():
    assert pixelcnn.work(N=1, image=1, channels=12, layers=5).multiply_adds == 5244  # counted by hand for reading R1
    degrees = masks.made_degrees(2, 2)  # one unit sees z0, one both: 3 + 3 connections, and z1 sees the first unit
    assert made.flow_work(N=1, degrees=degrees, D=2, T=1).multiply_adds == 7


def test_the_gpu_report_has_the_predicted_time_beside_the_measured_one():
    measured = {f"{case.op} {label(size)}" for case in every() for size in case.gpu.sizes}
    both = sorted(measured & predicted().keys())
    assert {case.split(" N=")[0] for case in both} == {
        "pixelcnn_log_prob", "pixelcnn_log_prob + gradients", "pixelcnn_sample", "made_flow_forward",
        "made_flow_inverse",
    }  # fmt: skip
    figures = {"section": "timings", "name": "", "status": "ok", "ms": 123.0, "per_second": 4.0, "of_floor": 0.5}
    records = [figures | {"case": both[0], "contender": who} for who in ("ours", "ours, graph", "torch eager")]
    lines = [line for line in gpu_markdown({}, records).splitlines() if "| 123 |" in line]
    told = f"{predicted()[both[0]]:.4g}"
    assert [line.split(" | ")[3].strip() for line in lines] == [told, told, ""]
