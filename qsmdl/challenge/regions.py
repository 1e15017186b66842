"""The regions of the official metrics, and the slope through the deep grey matter."""

import numpy as np
from scipy.ndimage import binary_dilation

from qsmdl.challenge.regression import fit_line
from qsmdl.challenge.volumes import BLOOD, DEEP_GREY_MATTER, Labels, Mask, Volume, bounding_box


def blood_region(mask: Mask, labels: Labels) -> Mask:
    """Blood inside the mask, dilated once by a 3 x 3 x 3 cube and not masked again."""
    region: Mask = mask & (labels == BLOOD)
    if not region.any():
        return region
    box = bounding_box(region, 1)
    region[box] = binary_dilation(region[box], structure=np.ones((3, 3, 3), dtype=bool))
    return region


def deep_grey_slope(recon: Volume, truth: Volume, labels: Labels) -> float | None:
    """Slope of the line through the means of the six deep grey matter regions, map against truth, over all voxels that have the label.

    None where a region is missing.
    """
    regions = [labels == label for label in DEEP_GREY_MATTER]
    if not all(region.any() for region in regions):
        return None
    return fit_line(np.array([truth[r].mean() for r in regions]), np.array([recon[r].mean() for r in regions]))[0]


def slope_deviation(recon: Volume, truth: Volume, labels: Labels) -> float | None:
    """|1 - slope| of `deep_grey_slope`; None as there."""
    slope = deep_grey_slope(recon, truth, labels)
    return None if slope is None else abs(1 - slope)
