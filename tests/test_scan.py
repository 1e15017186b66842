import math

import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.scan import ChiMap, FieldMap, Geometry, Outcome, Scan

GEOMETRY = Geometry((3, 4, 5), (1.0, 2.0, 3.0))
MASK = torch.ones(3, 4, 5, dtype=torch.bool)


def scan(**changes):
    values = {
        "geometry": GEOMETRY,
        "echo_times_s": (0.004, 0.012),
        "magnitude": torch.ones(2, 3, 4, 5),
        "phase_rad": torch.zeros(2, 3, 4, 5),
        "mask": MASK,
    }
    return Scan(**(values | changes))


def field(**changes):
    values = {"geometry": GEOMETRY, "field_ppm": torch.zeros(3, 4, 5), "mask": MASK, "weight": MASK.float()}
    return FieldMap(**(values | changes))


def with_nan(shape):
    values = torch.zeros(shape)
    values.view(-1)[7] = math.nan
    return values


def test_a_cropped_geometry_moves_its_origin():
    affine = torch.tensor([[0, -2.0, 0, 5], [1, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]]).numpy()
    cropped = Geometry((3, 4, 5), (1, 2, 3), affine=affine).cropped((slice(1, 3), slice(2, 4), slice(0, 5)))
    assert cropped.shape == (2, 2, 5)
    assert cropped.affine[:3, 3].tolist() == [5 - 2 * 2, 6 + 1, 7]
    assert affine[:3, 3].tolist() == [5, 6, 7]


def test_repr_answers_the_first_question():
    assert "3 x 4 x 5 voxels of 1 x 2 x 3 mm" in repr(GEOMETRY)
    assert GEOMETRY.field_of_view_mm == (3.0, 8.0, 15.0)


def test_nan_outside_the_mask_is_nobodys_business():
    mask = MASK.clone()
    mask.view(-1)[7] = False
    assert scan(phase_rad=torch.stack([with_nan((3, 4, 5))] * 2), mask=mask).mask.sum() == 59


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Geometry((3, 4), (1, 1, 1)), "three"),
        (lambda: Geometry((3, 4, 0)), "at least one"),
        (lambda: Geometry((3, 4, 5), (1, 0, 1)), "voxel_size_mm"),
        (lambda: Geometry((3, 4, 5), b0_direction=(0, 1, 1)), "unit vector"),
        (lambda: Geometry((3, 4, 5), b0_tesla=0), "b0_tesla"),
        (lambda: scan(echo_times_s=(4.0, 12.0)), "ms"),
        (lambda: scan(echo_times_s=(0.012, 0.004)), "ascend"),
        (lambda: scan(magnitude=torch.ones(3, 3, 4, 5)), "magnitude has the shape"),
        (lambda: scan(phase_rad=torch.stack([with_nan((3, 4, 5))] * 2)), r"phase_rad holds 2 NaN.*index \(0, 0, 1, 2\)"),
        (lambda: scan(mask=torch.zeros(3, 4, 5, dtype=torch.bool)), "empty"),
        (lambda: scan(mask=torch.ones(3, 4, 5)), "boolean"),
        (lambda: scan(frequency_ppm=torch.zeros(3, 4, 4)), "frequency_ppm"),
        (lambda: field(weight=torch.zeros(3, 4, 5)), "positive somewhere"),
        (lambda: field(weight=-MASK.float()), "at least 0"),
        (lambda: field(noise_ppm=torch.zeros(3, 4, 5)), "noise_ppm"),
        (lambda: field(kind="background"), "'local' or 'total'"),
        (lambda: ChiMap(GEOMETRY, with_nan((3, 4, 5)), MASK, Outcome(1, "", 0.0)), "chi_ppm holds 1 NaN"),
    ],
)
def test_bad_values_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
