"""Losses of any scale and shape as numbers that a Gaussian process can model: about standard normal, order kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_POWERS: Final = np.linspace(-1.0, 1.0, 21)
"""Powers that are tried. 1 changes nothing; above it the good end would be compressed, where resolution is wanted."""
_SOFT: Final = 4.0
"""Distance from the median, in robust standard deviations, beyond which losses count by their logarithm."""


@dataclass(frozen=True, slots=True)
class Warp:
    """An increasing map: centred and scaled robustly, far ends softened, Yeo-Johnson, standardised.

    Source: Yeo & Johnson (2000); Cowen-Rivers et al. (2022) for its use under a Gaussian process.
    """

    centre: float
    scale: float
    power: float
    mean: float
    deviation: float

    @classmethod
    def fit(cls, losses: Array) -> Self:
        """The map that makes losses, (n,) float64 with n ≥ 1, most nearly normal. Equal losses map to 0."""
        centre = float(np.median(losses))
        low, high = np.quantile(losses, (0.25, 0.75))
        scale = float(high - low) / 1.349
        if not scale > 0.0:
            # Half of the losses are equal: what spread there is sets the scale.
            scale = float(np.abs(losses - centre).mean())
        if not scale > 0.0:
            return cls(centre, 1.0, 1.0, 0.0, 1.0)
        z = _soften((losses - centre) / scale)
        best, chosen = -math.inf, cls(centre, scale, 1.0, 0.0, 1.0)
        jacobian = float((np.sign(z) * np.log1p(np.abs(z))).mean())
        for power in _POWERS.tolist():
            t = _bend(z, power)
            deviation = float(t.std())
            # A weak pull to 1, worth a few observations, keeps small samples from odd shapes.
            likelihood = (power - 1.0) * jacobian - math.log(deviation) - 2.0 * (power - 1.0) ** 2 / z.size
            if likelihood > best:
                best, chosen = likelihood, cls(centre, scale, power, float(t.mean()), deviation)
        return chosen

    def forward(self, losses: Array) -> Array:
        """Warped losses."""
        return (_bend(_soften((losses - self.centre) / self.scale), self.power) - self.mean) / self.deviation

    def slope(self, losses: Array) -> Array:
        """Derivative of `forward`, > 0."""
        z = (losses - self.centre) / self.scale
        soft = _soften(z)
        bent = (1.0 + np.abs(soft)) ** np.where(soft >= 0.0, self.power - 1.0, 1.0 - self.power)
        return bent / np.maximum(np.abs(z) - _SOFT + 1.0, 1.0) / (self.deviation * self.scale)

    def inverse(self, warped: Array) -> Array:
        """Losses of warped ones; infinite beyond what the map reaches."""
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return self.centre + self.scale * _harden(_straighten(warped * self.deviation + self.mean, self.power))


def _soften(z: Array) -> Array:
    size = np.abs(z)
    return np.where(size > _SOFT, np.sign(z) * (_SOFT + np.log1p(np.maximum(size - _SOFT, 0.0))), z)


def _harden(z: Array) -> Array:
    size = np.abs(z)
    return np.where(size > _SOFT, np.sign(z) * (_SOFT + np.expm1(np.maximum(size - _SOFT, 0.0))), z)


def _bend(z: Array, power: float) -> Array:
    log, other = np.log1p(np.abs(z)), 2.0 - power
    above = log if abs(power) < 1e-9 else np.expm1(power * log) / power
    return np.where(z >= 0.0, above, -np.expm1(other * log) / other)


def _straighten(t: Array, power: float) -> Array:
    other = 2.0 - power
    above = np.expm1(t) if abs(power) < 1e-9 else np.maximum(1.0 + power * t, 0.0) ** (1.0 / power) - 1.0
    return np.where(t >= 0.0, above, 1.0 - np.maximum(1.0 - other * t, 1.0) ** (1.0 / other))
