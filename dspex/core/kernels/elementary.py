"""Exponential and logarithm as polynomials.

Only additions, products, quotients and selections in the order written, so the compiler makes vectors of a loop over
them, and compiled code and Python give the same bits on every machine. Errors are in units of the last place (ulp) and
were measured against exact arithmetic; the tests repeat that on random arguments.

Coefficients: Chebyshev fits of degree 9 and 7 on the reduced intervals, below 0.1 ulp by themselves.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from dspex.core.jit import kernel

_PER_LOG_2: Final = 1.4426950408889634
# log(2) in two parts; the first has few digits, so that its products with an exponent are exact.
_LOG_2_HIGH: Final = 6.93147180369123816490e-01
_LOG_2_LOW: Final = 1.90821492927058770002e-10
_INTEGER: Final = 6755399441055744.0
"""1.5 · 2**52: added to a small number, it leaves the nearest integer in the lowest bits."""
_BIAS: Final = np.int64(1023)
_S1: Final = np.int64(1)
_S52: Final = np.int64(52)
_FRACTION: Final = np.int64((1 << 52) - 1)
_HALF_ROOT: Final = np.int64(0x3FE6A09E667F3BCD)  # bits of sqrt(1/2)
_TINY: Final = 2.2250738585072014e-308
_LIFT: Final = 18014398509481984.0  # 2**54


@kernel(exact=True, inline=True)
def exp(x: float) -> float:
    """e**x with an error below 1 ulp, of subnormal results below 1.5; NaN stays NaN."""
    z = -746.0 if x < -746.0 else x
    z = 710.0 if z > 710.0 else z
    shifted = z * _PER_LOG_2 + _INTEGER
    power = shifted - _INTEGER
    r = (z - power * _LOG_2_HIGH) - power * _LOG_2_LOW
    p = 2.510038319586702e-08 * r + 2.7620085455018414e-07
    p = p * r + 2.7557268464831627e-06
    p = p * r + 2.4801521302241082e-05
    p = p * r + 0.00019841269863050506
    p = p * r + 0.001388888891720967
    p = p * r + 0.008333333333330063
    p = p * r + 0.041666666666624136
    p = p * r + 0.16666666666666669
    p = p * r + 0.5
    p = 1.0 + (r + r * r * p)
    # In two steps, since 2**power alone may overflow or be subnormal.
    whole = np.float64(shifted).view(np.int64)
    half = np.float64(power * 0.5 + _INTEGER).view(np.int64)
    first = np.int64((half + _BIAS) << _S52).view(np.float64)
    second = np.int64((whole - half + _BIAS) << _S52).view(np.float64)
    return p * first * second


@kernel(exact=True, inline=True)
def log(x: float) -> float:
    """Natural logarithm with an error below 1 ulp; -inf at 0, NaN below 0 and for NaN.

    Source: the reduction by (m - 1) / (m + 1) of Tang (1990).
    """
    lifted = x < _TINY
    bits = np.float64(x * _LIFT if lifted else x).view(np.int64)
    # The exponent counts from sqrt(1/2), so that m lies in [sqrt(1/2), sqrt(2)).
    exponent = (bits - _HALF_ROOT) >> _S52
    m = np.int64(bits - (exponent << _S52)).view(np.float64)
    k = float(exponent) - (54.0 if lifted else 0.0)
    f = m - 1.0
    s = f / (2.0 + f)
    z = s * s
    p = 0.14617807153417325 * z + 0.15331611722055008
    p = p * z + 0.1818289243253687
    p = p * z + 0.22222211089379496
    p = p * z + 0.28571428626253836
    p = p * z + 0.3999999999989889
    p = p * z + 0.666666666666667
    square = 0.5 * f * f
    result = k * _LOG_2_HIGH - ((square - (s * (square + z * p) + k * _LOG_2_LOW)) - f)
    result = x if x == math.inf else result
    result = -math.inf if x == 0.0 else result
    return result if x >= 0.0 else math.nan
