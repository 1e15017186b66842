import math

import numpy as np
import pytest
import torch

from qsmdl.scan import Geometry, Scan

SHAPE = (9, 8, 7)
VOXEL_MM = (0.8, 1.0, 1.5)
TIMES_S = (0.005, 0.011, 0.02)
OBLIQUE_B0 = (0.0, math.sin(0.3), math.cos(0.3))


@pytest.fixture
def mask():
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[2:7, 1:7, 1:6] = True
    return mask


@pytest.fixture
def scan(mask):
    generator = torch.Generator().manual_seed(5)
    affine = np.diag([*VOXEL_MM, 1.0])
    affine[:3, 3] = (-3.0, 4.5, 10.0)
    geometry = Geometry(SHAPE, VOXEL_MM, OBLIQUE_B0, 3.0, affine)
    magnitude = 100 * torch.rand((3, *SHAPE), generator=generator)
    phase = (2 * torch.rand((3, *SHAPE), generator=generator) - 1) * math.pi
    frequency = 0.1 * torch.randn(SHAPE, generator=generator)
    return Scan(geometry, TIMES_S, magnitude, phase, mask, frequency, "Sim1")
