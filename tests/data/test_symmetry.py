"""The dipole model holds exactly for transformed inputs, and maps come back to where they were."""

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from qsmdl.data.inputs import NetworkInputs
from qsmdl.data.symmetry import IDENTITY, Symmetry, parse_symmetries
from qsmdl.errors import InputError
from qsmdl.physics.dipole import Dipole
from qsmdl.scan import Geometry

PARTS = ("flip_x", "flip_y", "flip_z", "sign")
NAMES = ["identity", *("+".join(c) for n in range(1, 5) for c in itertools.combinations(PARTS, n))]
AFFINE = np.array([[0.9, 0.1, 0.0, -11.0], [-0.1, 1.9, 0.2, 5.0], [0.0, -0.2, 3.0, 7.0], [0.0, 0.0, 0.0, 1.0]])


class Physics(NamedTuple):
    """What networks that know the physics are fed."""

    voxel_size_mm: Tensor
    b0_direction: Tensor
    echo_phase_rad: Tensor
    echo_weight: Tensor
    rad_per_ppm: Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Extended(NetworkInputs):
    physics: Physics | None = None


def dipole(geometry, voxel_size_mm=None, b0_direction=None):
    """On an odd Fourier grid: where two axes of an even one are at their Nyquist frequency, the house's kernel prefers one diagonal to the other,
    which is a matter of sampling and not of physics.
    """
    voxel = geometry.voxel_size_mm if voxel_size_mm is None else voxel_size_mm
    direction = geometry.b0_direction if b0_direction is None else b0_direction
    return Dipole(geometry.shape, voxel, direction, fft_shape=[3 * n // 2 * 2 + 1 for n in geometry.shape])


def made(geometry, *, seed=0, magnitude=True):
    """Inputs of a random map chi, whose field and phases are those of the dipole model: (inputs, chi)."""
    generator = torch.Generator().manual_seed(seed)
    chi = torch.randn(1, 1, *geometry.shape, generator=generator)
    field = dipole(geometry)(chi)
    c = torch.tensor([[5.0, 15.0]])
    shape = (1, 2, *geometry.shape)
    physics = Physics(
        torch.tensor([geometry.voxel_size_mm]),
        torch.tensor([geometry.b0_direction]),
        c.reshape(1, 2, 1, 1, 1) * field,
        torch.rand(shape, generator=generator),
        c,
    )
    inputs = Extended(
        field,
        torch.randn(1, 3, *geometry.shape, generator=generator),
        torch.rand(1, 1, *geometry.shape, generator=generator) > 0.4,
        torch.rand(1, 1, *geometry.shape, generator=generator),
        tuple(slice(0, n) for n in geometry.shape),
        dataclasses.replace(geometry, affine=AFFINE),
        torch.rand(1, 3, *geometry.shape, generator=generator) if magnitude else None,
        physics=physics,
    )
    return inputs, chi


@pytest.mark.parametrize("name", NAMES)
def test_the_dipole_model_holds_exactly(name, geometry):
    symmetry = Symmetry.of(name)
    inputs, chi = made(geometry)
    moved = symmetry(inputs)
    seen = symmetry.restore(chi)  # done twice it is the identity, so this is the map that the transformed scan has
    for operator in (dipole(moved.geometry), dipole(geometry, moved.physics.voxel_size_mm, moved.physics.b0_direction)):
        torch.testing.assert_close(operator(seen), moved.field_ppm, atol=1e-5, rtol=1e-4)
    c = moved.physics.rad_per_ppm.reshape(1, 2, 1, 1, 1)
    torch.testing.assert_close(moved.physics.echo_phase_rad, c * moved.field_ppm)
    assert torch.equal(symmetry.restore(seen), chi)
    back = symmetry(moved)
    for first, second in zip(inputs.arguments, back.arguments, strict=True):
        assert torch.equal(torch.as_tensor(first), torch.as_tensor(second))
    for first, second in zip(inputs.physics, back.physics, strict=True):
        assert torch.equal(first, second)
    assert back.geometry.b0_direction == geometry.b0_direction


def test_what_is_mirrored_and_what_is_negated():
    inputs, _ = made(Geometry((5, 6, 7), (1.0, 2.0, 3.0), (0.36, -0.48, 0.8)))
    moved = Symmetry.of("flip_y+sign")(inputs)
    for name in ("field_ppm", "prior_ppm"):
        assert torch.equal(getattr(moved, name), -getattr(inputs, name).flip(-2)), name
    for name in ("mask", "weight", "magnitude"):
        assert torch.equal(getattr(moved, name), getattr(inputs, name).flip(-2)), name
    assert moved.box == inputs.box
    assert moved.geometry.b0_direction == (0.36, 0.48, 0.8)
    assert torch.equal(moved.physics.echo_weight, inputs.physics.echo_weight.flip(-2))
    assert torch.equal(moved.physics.voxel_size_mm, inputs.physics.voxel_size_mm)
    assert torch.equal(moved.physics.b0_direction, torch.tensor([[0.36, 0.48, 0.8]]))


def test_voxels_stay_where_they_were_in_space():
    inputs, _ = made(Geometry((5, 6, 7)))
    moved = Symmetry.of("flip_x+flip_z")(inputs).geometry.affine
    voxel = np.array([1.0, 2.0, 3.0, 1.0])
    assert np.allclose(moved @ np.array([4 - 1, 2, 6 - 3, 1.0]), AFFINE @ voxel)


def test_turning_about_z_is_mirroring_x_and_y():
    inputs, _ = made(Geometry((5, 6, 7)))
    moved = Symmetry.of("flip_x+flip_y")(inputs)
    assert torch.equal(moved.field_ppm, torch.rot90(inputs.field_ppm, 2, (-3, -2)))


def test_what_is_missing_stays_missing():
    inputs, _ = made(Geometry((5, 6, 7)), magnitude=False)
    assert Symmetry.of("flip_x")(inputs).magnitude is None


@pytest.mark.parametrize("name", NAMES)
def test_names_are_read_as_they_are_told(name):
    assert Symmetry.of(name).name == name
    assert Symmetry.of("+".join(reversed(name.split("+")))) == Symmetry.of(name)


@pytest.mark.parametrize("name", ["", "flip_w", "flip_x+flip_x", "identity+sign", "flip_x,sign"])
def test_unknown_symmetries_are_named(name):
    with pytest.raises(InputError, match=f"no symmetry '{name}'".replace("+", r"\+")):
        Symmetry.of(name)


def test_lists_of_symmetries():
    assert parse_symmetries(["identity", "sign+flip_x"]) == (IDENTITY, Symmetry((True, False, False), True))
    for wrong in ([], ["sign+flip_x", "flip_x+sign"]):
        with pytest.raises(InputError, match="at least one, each once"):
            parse_symmetries(wrong)


def test_an_input_without_a_role_is_refused():
    @dataclasses.dataclass(frozen=True, eq=False)
    class Unknown(NetworkInputs):
        coil_phase: Tensor | None = None

    inputs, _ = made(Geometry((5, 6, 7)))
    known = {f.name: getattr(inputs, f.name) for f in dataclasses.fields(NetworkInputs)}
    with pytest.raises(InputError, match=r"'coil_phase' has no role.*ROLES"):
        Symmetry.of("flip_x")(Unknown(**known, coil_phase=torch.zeros(1)))
