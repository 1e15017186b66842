"""Relaxation at other field strengths than the 7 T of the tissue tables."""

from dataclasses import replace

import torch

from qsmdl.errors import InputError
from qsmdl.physics.box import Box, slabs
from qsmdl.scan import LABELS, Phantom

TABLE_TESLA = 7.0
"""The field strength that tissue tables hold for."""
_R2STAR_CONSTANT = 0.15
_R1_EXPONENT = 0.36
_DEEP_GREY = ("caudate", "globus_pallidus", "putamen", "red_nucleus", "dentate_nucleus", "substantia_nigra", "thalamus")
_R1_EXPONENTS = dict.fromkeys(_DEEP_GREY, 0.27) | {"grey_matter": 0.31, "csf": 0.0, "blood": 0.33, "fat": 0.2, "air": 0.0}


def r2star_factor(b0_tesla: float) -> float:
    """R2* relative to that at 7 T: 0.15 + 0.85 B0 / 7 T.

    R2* grows linearly with B0 (Li et al., Magn Reson Med 2009). The constant is a fit to the T2* of Peters et al. (Magn Reson Imaging 2007;25:748) at
    1.5, 3 and 7 T: cortex 84, 66, 33 ms, white matter 66, 53, 27 ms, caudate 59, 41, 20 ms, putamen 56, 32, 16 ms, so 0.29 to 0.41 at 1.5 T and
    0.48 to 0.51 at 3 T against 0.33 and 0.51 here.
    """
    if not 0.1 <= b0_tesla <= 21:
        raise InputError(f"b0_tesla is {b0_tesla}; relaxation is known from 0.1 to 21 T.")
    return _R2STAR_CONSTANT + (1 - _R2STAR_CONSTANT) * b0_tesla / TABLE_TESLA


def r1_factor(label: str, b0_tesla: float) -> float:
    """R1 of a tissue relative to that at 7 T: (7 T / B0)^b.

    b follows the T1 of Wright et al. (MAGMA 2008;21:121) at 1.5 and 7 T: white matter 646 and 1126 ms (0.36), cortex 1197 and 1939 ms (0.31), putamen
    1084 and 1644 ms, caudate 1109 and 1684 ms (0.27). Venous blood: 1584 ms at 3 T (Lu et al., Magn Reson Med 2004) and 2.1 s at 7 T (Zhang et al.,
    Magn Reson Med 2013), 0.33. CSF does not depend on the field (Rooney et al., Magn Reson Med 2007;57:308); fat does a little, 0.2 is a guess.
    """
    return float((TABLE_TESLA / b0_tesla) ** _R1_EXPONENTS.get(label, _R1_EXPONENT))


def at_field_strength(phantom: Phantom, box: Box | None = None) -> Phantom:
    """A phantom whose rates hold for 7 T with those of its own field strength (`geometry.b0_tesla`); chi and M0 stay. At 7 T the phantom itself.

    box: the only voxels whose rates are wanted, None for all; those of the others stay what they were.
    """
    b0_tesla = phantom.geometry.b0_tesla
    if b0_tesla == TABLE_TESLA:
        return phantom
    factors = torch.full((256,), r1_factor("white_matter", b0_tesla), dtype=torch.float32, device=phantom.labels.device)
    for label, number in LABELS.items():
        factors[number] = r1_factor(label, b0_tesla)
    r1, r2star = phantom.r1_per_s.clone(), phantom.r2star_per_s.clone()
    where = (slice(None),) * 3 if box is None else box
    inner_r1, labels = r1[where], phantom.labels[where]
    r2star[where].mul_(r2star_factor(b0_tesla))
    for slab in slabs(labels.shape, labels.device):
        inner_r1[slab].mul_(torch.take(factors, labels[slab].long()))
    brightest = phantom.brightest
    if brightest is not None:  # the scalp's fat
        brightest = (brightest[0], brightest[1] * r1_factor("fat", b0_tesla), brightest[2] * r2star_factor(b0_tesla))
    return replace(phantom, r1_per_s=r1, r2star_per_s=r2star, brightest=brightest)
