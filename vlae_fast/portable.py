"""exp, log and the like in float64, the same bits on every machine, as numpy's and torch's are not.

Made of sums, products, quotients and roots alone, which IEEE 754 rounds in one way; numpy fuses none of them. Within
two units in the last place.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["exp", "inverse_normal", "log", "log_mean_exp"]

Array = NDArray[np.float64]
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
"""Their sum is ln(2); the first has zeros behind 32 bits, so that its multiples up to 2**11 are exact."""


def _polynomial(x: Array, *coefficients: float) -> Array:
    """The highest power first."""
    value = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value


def exp(x: Array) -> Array:
    """exp(x) of finite numbers: 0 below -745, at most exp(709)."""
    x = np.clip(x, -745.2, 709.0)
    n = np.rint(x * 1.4426950408889634)
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    factorials = np.cumprod([1.0, *range(1, 14)])
    half = np.floor(n / 2)  # a power of two at a time: both are normal numbers
    mantissa = _polynomial(r, *(1 / factorials[::-1]))
    return np.ldexp(np.ldexp(mantissa, half.astype(np.int64)), (n - half).astype(np.int64))


def log(x: Array) -> Array:
    """The natural logarithm of positive finite numbers."""
    mantissa, exponent = np.frexp(x)
    small = mantissa < 0.7071067811865476
    mantissa, e = np.where(small, 2 * mantissa, mantissa), (exponent - small).astype(np.float64)
    s = (mantissa - 1) / (mantissa + 1)  # log(m) = 2 atanh(s), |s| < 0.172
    series = _polynomial(s * s, *(2 / k for k in range(25, 0, -2)))
    return e * _LN2_HIGH + (s * series + e * _LN2_LOW)


def inverse_normal(p: Array) -> Array:
    """The inverse of the standard normal distribution function, of 0 < p < 1 (Wichura 1988, algorithm AS 241)."""
    q = p - 0.5
    r = 0.180625 - q * q
    central = q * _polynomial(r, *_CENTRAL[0]) / _polynomial(r, *_CENTRAL[1], 1.0)
    r = np.sqrt(-log(np.minimum(p, 1 - p)))
    middle = _polynomial(r - 1.6, *_MIDDLE[0]) / _polynomial(r - 1.6, *_MIDDLE[1], 1.0)
    far = _polynomial(r - 5, *_FAR[0]) / _polynomial(r - 5, *_FAR[1], 1.0)
    return np.where(np.abs(q) <= 0.425, central, np.copysign(np.where(r <= 5, middle, far), q))


_CENTRAL = (
    (2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457,
     13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.387132872796366608),
    (5226.495278852854561, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867,
     5394.1960214247511077, 687.1870074920579083, 42.313330701600911252),
)  # fmt: skip
_MIDDLE = (
    (7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258,
     3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734),
    (1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459,
     0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187),
)  # fmt: skip
_FAR = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 0.0012426609473880784386, 0.026532189526576123093,
     0.29656057182850489123, 1.7848265399172913358, 5.4637849111641143699, 6.6579046435011037772),
    (2.04426310338993978564e-15, 1.4215117583164458887e-7, 1.8463183175100546818e-5, 7.868691311456132591e-4,
     0.0148753612908506148525, 0.13692988092273580531, 0.59983220655588793769),
)  # fmt: skip


def log_mean_exp(t: Tensor) -> Tensor:
    """log(mean(exp(t))) over the last axis, of finite float64 [..., n], n >= 1, summed by halves."""
    result: Tensor = torch.ops.vlae_fast.log_mean_exp(t)
    return result


def _log_mean_exp(t: Tensor) -> Tensor:
    values: Any = t.detach().cpu().numpy()
    largest = values.max(-1, keepdims=True)
    terms, samples = exp(values - largest), values.shape[-1]
    while terms.shape[-1] > 1:
        half = (terms.shape[-1] + 1) // 2
        rest = terms.shape[-1] - half
        terms = np.concatenate([terms[..., :rest] + terms[..., half:], terms[..., rest:half]], axis=-1)
    return torch.from_numpy(largest[..., 0] + log(terms[..., 0] / samples)).to(t.device)


# An operator, so that torch.compile and torch.export need not look into it.
_OP = "vlae_fast::log_mean_exp"
torch.library.define(_OP, "(Tensor t) -> Tensor")
torch.library.impl(_OP, "default")(_log_mean_exp)
torch.library.register_fake(_OP)(lambda t: t.new_empty(t.shape[:-1]))
