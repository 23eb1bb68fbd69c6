"""Numbers of every kind are taken, texts, bools and what is out of range refused by name."""

import math

import numpy as np
import pytest
import torch

from vlae_fast import checks

WHOLE = [3, np.int64(3), np.uint8(3), torch.tensor(3), np.array(3)]
NO_NUMBER = ["3", None, True, np.bool_(True), torch.tensor(True), [3], torch.zeros(2), 1j]


@pytest.mark.parametrize("value", WHOLE, ids=repr)
def test_whole_numbers_of_every_kind(value):
    number = checks.whole("n", value)
    assert number == 3
    assert type(number) is int


@pytest.mark.parametrize("value", [*NO_NUMBER, 3.0, torch.tensor(3.0)], ids=repr)
def test_no_whole_number(value):
    with pytest.raises(TypeError, match="n: a whole number wanted, got"):
        checks.whole("n", value)


@pytest.mark.parametrize("value", [-1, 11, 2**70])
def test_whole_number_out_of_range(value):
    with pytest.raises(ValueError, match=f"n: a whole number in 0..10 wanted, got {value}"):
        checks.whole("n", value, 0, 10)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), torch.tensor(0.5), np.float64(0.5)], ids=repr)
def test_numbers_of_every_kind(value):
    number = checks.real("t", value)
    assert number == 0.5
    assert type(number) is float


@pytest.mark.parametrize("value", NO_NUMBER, ids=repr)
def test_no_number(value):
    with pytest.raises(TypeError, match="t: a number wanted, got"):
        checks.real("t", value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, torch.tensor(math.nan)], ids=str)
def test_number_that_is_not_finite(value):
    with pytest.raises(ValueError, match="t: a finite number wanted, got"):
        checks.real("t", value)


@pytest.mark.parametrize("value", [0, -1.0])
def test_number_that_is_not_positive(value):
    with pytest.raises(ValueError, match="t: a positive number wanted, got"):
        checks.real("t", value, positive=True)
