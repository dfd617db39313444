"""Groups of equal size along a measure."""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def equal_mass(values: Floats, num_groups: int) -> npt.NDArray[np.int64]:
    """The group of each value, from 0: as many in each as can be, equal values together, no group empty."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, num_groups + 1)[1:-1]))
    found: npt.NDArray[Any] = np.searchsorted(edges, values, side="right")
    return np.unique(found, return_inverse=True)[1]
