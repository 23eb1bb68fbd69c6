"""Every Triton kernel, in every configuration of the tables, compiles for each architecture; no GPU is needed.

No spills, shared memory within the chip, and, where Triton has the version of tests/registers.json, its numbers.
After a change: `python -m vlae_fast.kernels.ahead_of_time > tests/registers.json`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlae_fast import VLAEConfig
from vlae_fast.kernels.pixelcnn import PAPER

RECORDED = json.loads(Path(__file__).with_name("registers.json").read_text())
# Bytes of shared memory that a program can have.
SHARED = {"sm_80": 166912, "sm_90": 232448, "sm_100": 232448}


def test_the_preset_is_among_what_is_compiled():
    config = VLAEConfig.preset("paper")
    assert {"C": config.pixelcnn_channels, "K": config.context_maps} == PAPER
    assert {"pixelcnn logits sm_90", "pixelcnn log_prob backward sm_90"} <= RECORDED["kernels"].keys()


@pytest.mark.slow
def test_compiles_as_recorded():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "vlae_fast.kernels.ahead_of_time"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    compiled = json.loads(result.stdout)
    assert set(compiled["kernels"]) == set(RECORDED["kernels"])
    for name, used in compiled["kernels"].items():
        assert used["spilled_bytes"] == 0, name
        assert used["shared_bytes"] <= SHARED[name.split()[-1]], name
    if compiled["triton"] == RECORDED["triton"]:
        assert compiled["kernels"] == RECORDED["kernels"]
