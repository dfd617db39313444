"""Confidence intervals."""

import math


def wilson(successes: int, total: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The 95% score interval of a proportion (Wilson 1927)."""
    if total == 0:
        return 0.0, 1.0
    p, zz = successes / total, z * z
    centre = (p + zz / (2 * total)) / (1 + zz / total)
    half = z / (1 + zz / total) * math.sqrt(p * (1 - p) / total + zz / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)
