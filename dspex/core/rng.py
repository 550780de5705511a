"""Counter-based random numbers keyed (seed, step, dim, index): no state, so order and threads do not matter."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dspex.core import streams
from dspex.core.jit import int64, kernel
from dspex.core.kernels.elementary import exp, log

_GOLDEN: Final = np.uint64(streams.GOLDEN)
_FIRST: Final = np.uint64(streams.FIRST)
_SECOND: Final = np.uint64(streams.SECOND)
_S27: Final = np.uint64(27)
_S30: Final = np.uint64(30)
_S31: Final = np.uint64(31)
_S11: Final = np.uint64(11)
_UNIT: Final = 2.0**-53


@kernel(exact=True)
def mix(word: np.uint64) -> np.uint64:
    """The finaliser of splitmix64. Source: Steele, Lea & Flood (2014), variant 13 of Stafford."""
    word = (word ^ (word >> _S30)) * _FIRST
    word = (word ^ (word >> _S27)) * _SECOND
    return word ^ (word >> _S31)


@kernel(exact=True)
def random_bits(seed: int, step: int, dim: int, index: int) -> np.uint64:
    """64 random bits that depend on the four int64 counters alone."""
    # By way of int64, since NumPy refuses to make a negative Python integer unsigned.
    word = mix(np.uint64(int64(seed)) + _GOLDEN)
    word = mix((word ^ np.uint64(int64(step))) + _GOLDEN)
    word = mix((word ^ np.uint64(int64(dim))) + _GOLDEN)
    return mix((word ^ np.uint64(int64(index))) + _GOLDEN)


@kernel(exact=True)
def uniform(seed: int, step: int, dim: int, index: int) -> float:
    """A float in [0, 1), a multiple of 2**-53."""
    return float(random_bits(seed, step, dim, index) >> _S11) * _UNIT


@kernel(exact=True)
def fill_uniform(seed: int, step: int, dim: int, first: int, out: NDArray[np.float64]) -> None:
    """Uniform numbers for the indices from `first`, one for each element of `out`."""
    for i in range(out.shape[0]):
        out[i] = uniform(seed, step, dim, first + i)


@kernel(exact=True, inline=True)
def normal_quantile(p: float) -> float:
    """Inverse of the standard normal distribution function, to about 1e-15 for p in (0, 1); ±inf at 0 and 1.

    All three rational functions are evaluated and one is chosen, so that loops over it become vectors.

    Source: Wichura (1988), algorithm AS 241, PPND16.
    """
    q = p - 0.5
    r = 0.180625 - q * q
    num = 2.5090809287301226727e3 * r + 3.3430575583588128105e4
    num = num * r + 6.7265770927008700853e4
    num = num * r + 4.5921953931549871457e4
    num = num * r + 1.3731693765509461125e4
    num = num * r + 1.9715909503065514427e3
    num = num * r + 1.3314166789178437745e2
    num = num * r + 3.3871328727963666080e0
    den = 5.2264952788528545610e3 * r + 2.8729085735721942674e4
    den = den * r + 3.9307895800092710610e4
    den = den * r + 2.1213794301586595867e4
    den = den * r + 5.3941960214247511077e3
    den = den * r + 6.8718700749205790830e2
    den = den * r + 4.2313330701600911252e1
    den = den * r + 1.0
    centre = q * num / den
    tail = p if q < 0.0 else 1.0 - p
    root = np.sqrt(-log(0.5 if tail > 0.5 else tail))
    far = root > 5.0
    r = root - 5.0 if far else root - 1.6
    num = (2.01033439929228813265e-7 if far else 7.74545014278341407640e-4) * r
    num = (num + (2.71155556874348757815e-5 if far else 2.27238449892691845833e-2)) * r
    num = (num + (1.24266094738807843860e-3 if far else 2.41780725177450611770e-1)) * r
    num = (num + (2.65321895265761230930e-2 if far else 1.27045825245236838258e0)) * r
    num = (num + (2.96560571828504891230e-1 if far else 3.64784832476320460504e0)) * r
    num = (num + (1.78482653991729133580e0 if far else 5.76949722146069140550e0)) * r
    num = (num + (5.46378491116411436990e0 if far else 4.63033784615654529590e0)) * r
    num = num + (6.65790464350110377720e0 if far else 1.42343711074968357734e0)
    den = (2.04426310338993978564e-15 if far else 1.05075007164441684324e-9) * r
    den = (den + (1.42151175831644588870e-7 if far else 5.47593808499534494600e-4)) * r
    den = (den + (1.84631831751005468180e-5 if far else 1.51986665636164571966e-2)) * r
    den = (den + (7.86869131145613259100e-4 if far else 1.48103976427480074590e-1)) * r
    den = (den + (1.48753612908506148525e-2 if far else 6.89767334985100004550e-1)) * r
    den = (den + (1.36929880922735805310e-1 if far else 1.67638483018380384940e0)) * r
    den = (den + (5.99832206555887937690e-1 if far else 2.05319162663775882187e0)) * r
    outer = num / (den + 1.0)
    outer = math.inf if tail <= 0.0 else outer
    outer = -outer if q < 0.0 else outer
    return centre if abs(q) <= 0.425 else outer


@kernel(exact=True, inline=True)
def normal_cdf(x: float) -> float:
    """The standard normal distribution function; relative error below 1e-14 for x > -8 and below 1e-12 in the far tail.

    Source: the form of Shepherd & Laframboise (1981), a polynomial in (t - 3.75) / (t + 3.75), fitted anew.
    """
    t = abs(x) * 0.7071067811865476
    s = (t - 3.75) / (t + 3.75) if t < 1e9 else 1.0
    p = 5.8071231669915106e-09 * s + 3.1464457266816106e-08
    p = p * s - 2.4081490666680623e-09
    p = p * s - 2.603870314715985e-07
    p = p * s - 2.689999386688686e-08
    p = p * s + 1.7627072667984837e-06
    p = p * s - 9.935032701012042e-07
    p = p * s - 1.1454801481920514e-05
    p = p * s + 2.2392165116953308e-05
    p = p * s + 5.165431859007172e-05
    p = p * s - 0.00029015602512318507
    p = p * s + 0.00029371217229890264
    p = p * s + 0.0017556261425406721
    p = p * s - 0.00974657930421404
    p = p * s + 0.028362277394151304
    p = p * s - 0.05869339861415539
    p = p * s + 0.09230432116147498
    p = p * s - 0.10880393014055084
    p = p * s + 0.08227673849012472
    p = p * s + 0.0035854154854417426
    p = p * s - 0.14024059858554686
    p = p * s + 1.2375126308378277
    tail = 0.5 * exp(-0.5 * x * x) * p / (1.0 + 2.0 * t)
    return tail if x < 0.0 else 1.0 - tail
