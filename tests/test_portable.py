"""exp, log and the inverse normal distribution that are made of IEEE arithmetic alone."""

import math

import numpy as np
import torch

from vlae_fast import portable

ULP = 2.0**-52


def largest_error(actual, expected):
    return np.abs(actual / expected - 1).max()


def test_exp():
    x = np.concatenate([np.linspace(-700, 700, 100_001), np.linspace(-1, 1, 1001), [0.0]])
    assert largest_error(portable.exp(x), np.array([math.exp(v) for v in x])) < 2 * ULP
    assert portable.exp(np.array([-1e9, -744.0])).tolist() == [0.0, math.exp(-744.0)]


def test_log():
    x = np.concatenate([np.exp(np.linspace(-700, 700, 100_001)), np.linspace(0.5, 2, 1000), [2.0**-1074, 1.5e308]])
    expected = np.array([math.log(v) for v in x])
    near = np.abs(expected) > 1e-12
    assert largest_error(portable.log(x)[near], expected[near]) < 3 * ULP
    assert portable.log(np.array([1.0, 2.0])).tolist() == [0.0, math.log(2.0)]


def test_inverse_normal():
    p = np.concatenate([np.linspace(1e-6, 1 - 1e-6, 100_001), 2.0 ** -np.arange(1.0, 54.0)])
    x = portable.inverse_normal(p)
    expected = torch.special.ndtri(torch.from_numpy(p)).numpy()
    assert np.abs(x - expected).max() < 1e-14 * 8
    assert (np.diff(portable.inverse_normal(np.linspace(1e-9, 1 - 1e-9, 10_001))) > 0).all()
    assert portable.inverse_normal(np.array([0.5])) == 0


def test_log_mean_exp():
    for samples in (1, 2, 3, 7, 256):
        t = 30 * torch.randn(5, samples, dtype=torch.float64) - 100
        torch.testing.assert_close(portable.log_mean_exp(t), t.logsumexp(1) - math.log(samples), rtol=1e-14, atol=0)


def test_known_bits():
    """Of one machine; no other may differ."""
    x = np.array([0.1, -3.7, 55.5])
    found = [portable.exp(x), portable.log(np.abs(x)), portable.inverse_normal(np.array([1e-12, 0.2, 0.9]))]
    assert [[v.hex() for v in part] for part in found] == KNOWN


KNOWN = [
    ["0x1.1aec7b35a00d4p+0", "0x1.9511fc6871044p-6", "0x1.0ca5f56995724p+80"],
    ["-0x1.26bb1bbb55515p+1", "0x1.4eeee650ae550p+0", "0x1.010c6b5e95d63p+2"],
    ["-0x1.c234fba57a32ap+2", "-0x1.aee8fa73a1333p-1", "0x1.4813c36e26d34p+0"],
]
