"""What is left of a correlation when a third variable is held."""

import numpy as np

from orchestrator.analysis.bootstrap import Floats

ROUNDING = 1e-12
"""A squared correlation that is nearer to 1 leaves nothing but rounding."""


def partial_correlation(xy: Floats, xz: Floats, yz: Floats) -> Floats:
    """Correlation of x and y given z, from the three correlations; NaN where z explains x or y entirely.

    With Pearson's r it is the correlation of the residuals of x and y after a least-squares line in z; with Spearman's
    rho that of the residuals of their ranks. As the gap is test minus train, its partial Pearson correlation given the
    training loss equals that of the test loss.

    Args:
        xy, xz, yz: Any one shape, in [-1, 1].
    """
    left_x, left_y = 1 - xz**2, 1 - yz**2
    enough = (left_x > ROUNDING) & (left_y > ROUNDING)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = np.where(enough, (xy - xz * yz) / np.sqrt(left_x) / np.sqrt(left_y), np.nan)
    clipped: Floats = np.clip(value, -1, 1)
    return clipped
