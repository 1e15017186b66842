"""The symmetries of the dipole model: transformed inputs whose map, transformed back, is as good a solution as that of the scan itself.

field = D chi holds exactly after mirroring grid, maps and B0 along any axis, and after negating field and chi together (on even grids with oblique
B0 but for the few frequencies that are Nyquist's along two axes, whose sign sampling leaves open). A network need not keep these
symmetries; by how far it does not tells of its error (`adaptation.ensemble`).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from qsmdl.data.inputs import NetworkInputs
from qsmdl.errors import InputError
from qsmdl.scan import Geometry

Role = Literal["volume", "odd volume", "vector", "same"]
ROLES: dict[str, Role] = {
    "field_ppm": "odd volume",
    "prior_ppm": "odd volume",
    "mask": "volume",
    "weight": "volume",
    "magnitude": "volume",
    "echo_phase_rad": "odd volume",
    "echo_share": "volume",
    "b0_direction": "vector",
    "voxel_size_mm": "same",
    "rad_per_ppm": "same",
    "box": "same",
}
"""What becomes of each of a network's inputs, by name. "volume" [..., x, y, z] is mirrored; "odd volume" mirrored, and negated by the sign flip; of a
"vector" [..., 3] the component along a mirrored axis changes its sign; "same" is left as it is."""
_FLIPS = ("flip_x", "flip_y", "flip_z")
_SIGN = "sign"
_IDENTITY = "identity"


@dataclass(frozen=True, slots=True)
class Symmetry:
    """flips: whether x, y and z are mirrored, the component of B0 along such an axis with them (x and y together: turned by 180 degrees about z);
    negated: whether field, priors and phases change their sign. Done twice it is the identity.
    """

    flips: tuple[bool, bool, bool] = (False, False, False)
    negated: bool = False

    @classmethod
    def of(cls, name: str) -> "Symmetry":
        """From its name: "identity", or one or more of flip_x, flip_y, flip_z and sign joined by "+". Raises InputError for any other."""
        parts = [] if name == _IDENTITY else name.split("+")
        if set(parts) - {*_FLIPS, _SIGN} or len(set(parts)) < len(parts):
            known = ", ".join((*_FLIPS, _SIGN))
            raise InputError(f"There is no symmetry {name!r}; it must be {_IDENTITY!r}, or one or more of {known} joined by '+', each once.")
        x, y, z = (flip in parts for flip in _FLIPS)
        return cls((x, y, z), _SIGN in parts)

    @property
    def name(self) -> str:
        """As `of` reads it."""
        return "+".join([f for f, done in zip(_FLIPS, self.flips, strict=True) if done] + [_SIGN] * self.negated) or _IDENTITY

    def __call__(self, inputs: NetworkInputs) -> NetworkInputs:
        """The inputs of the transformed scan; the box stays that of the scan itself.

        Raises InputError for an input that `ROLES` does not know, since nobody could tell what mirroring does to it.
        """
        changes = {f.name: self._moved(f.name, getattr(inputs, f.name)) for f in dataclasses.fields(inputs)}
        return dataclasses.replace(inputs, **changes)

    def restore(self, chi_ppm: Tensor) -> Tensor:
        """The map [..., x, y, z] of the transformed scan, as one of the scan itself."""
        return self._volume(chi_ppm, odd=True)

    def _moved(self, name: str, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, Geometry):
            return self._geometry(value)
        if hasattr(value, "_fields"):  # a NamedTuple of tensors
            return type(value)(*(self._moved(field, part) for field, part in zip(value._fields, value, strict=True)))
        role = ROLES.get(name)
        if role is None:
            raise InputError(f"The input {name!r} has no role under symmetries. Add it to qsmdl.data.symmetry.ROLES.")
        if role == "same":
            return value
        return value * value.new_tensor(self._signs) if role == "vector" else self._volume(value, odd=role == "odd volume")

    @property
    def _signs(self) -> tuple[float, float, float]:
        x, y, z = (-1.0 if flip else 1.0 for flip in self.flips)
        return x, y, z

    def _volume(self, values: Tensor, *, odd: bool) -> Tensor:
        mirrored = torch.flip(values, [axis - 3 for axis, flip in enumerate(self.flips) if flip]) if any(self.flips) else values
        return -mirrored if odd and self.negated else mirrored

    def _geometry(self, geometry: Geometry) -> Geometry:
        """The mirrored grid, whose affine says where its voxels were."""
        bx, by, bz = (v * s for v, s in zip(geometry.b0_direction, self._signs, strict=True))
        affine = geometry.affine
        if affine is not None:
            mirror = np.diag([*self._signs, 1.0])
            mirror[:3, 3] = [n - 1 if flip else 0 for n, flip in zip(geometry.shape, self.flips, strict=True)]
            affine = affine @ mirror
        return dataclasses.replace(geometry, b0_direction=(bx, by, bz), affine=affine)


IDENTITY = Symmetry()


def parse_symmetries(names: Sequence[str]) -> tuple[Symmetry, ...]:
    """Symmetries by name (`Symmetry.of`). Raises InputError for none, for unknown names, and for one that is listed twice."""
    found = tuple(Symmetry.of(name) for name in names)
    if not found or len(set(found)) < len(found):
        raise InputError(f"symmetries is {list(names)}; it must hold at least one, each once. [{_IDENTITY}] runs the network as it is.")
    return found
