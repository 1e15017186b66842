"""What the rules look at: how well a map explains the field, how rough it is, and how its spectrum is balanced around the magic angle."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qsmdl.physics.derivatives import Gradient
from qsmdl.physics.fourier import irfft3, multiply_spectrum, rfft3
from qsmdl.scan import ChiMap, FieldMap
from qsmdl.solvers.grid import PADDING, WorkingGrid

SHELL = (0.65, 0.95)
"""Of the Nyquist frequency along each axis: where streaks and noise show (Milovic et al., Magn Reson Med 2021)."""
BANDS = ((0.0, 0.085), (0.15, 0.30), (0.35, 0.60))
"""Of |D|, from the cone of the magic angle outwards (M1, M2, M3 of the same paper)."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one map. misfit_ppm: root mean square of w (D x - f) in the mask, w the field map's weight of mean 1; roughness_ppm_per_mm: mean over the
    mask of |G x|, its three components summed, differences across the mask's border left out; band_ppm: mean |F x| in the bands of |D|, as
    amplitudes; whitened: mean over the mask of ((D x - f) / sigma)^2, nan where the noise is not known.
    """

    misfit_ppm: float
    roughness_ppm_per_mm: float
    band_ppm: tuple[float, float, float]
    whitened: float = math.nan


class Examiner:
    """Measures maps of one field; what does not depend on the map is computed once. The residual is taken in the mask only: outside of it nothing is
    known of the field (and published code that sums over everything sees mostly what lies outside).
    """

    def __init__(self, field: FieldMap) -> None:
        self.field = field
        self._grid = WorkingGrid.of(field, PADDING)
        self._dipole = self._grid.dipole()
        self._gradient = Gradient(field.geometry.voxel_size_mm)
        self._inside = self._gradient(self._placed_mask()) == 0
        shell = self._shell()
        size = self._dipole.abs()
        self._bands = [((size >= low) & (size <= high) & shell).flatten().nonzero().squeeze(1) for low, high in BANDS]

    def _placed_mask(self) -> Tensor:
        return self._grid.place(torch.ones_like(self.field.field_ppm))

    def _shell(self) -> Tensor:
        """Half spectrum of the frequencies within SHELL, each axis in units of its own Nyquist frequency."""
        x, y, z = self._grid.shape
        axes = (torch.fft.fftfreq(x), torch.fft.fftfreq(y), torch.fft.rfftfreq(z))
        i, j, k = torch.meshgrid(*((2 * axis).square() for axis in axes), indexing="ij")
        radius = (i + j + k).sqrt().to(self._dipole.device)
        return (radius >= SHELL[0]) & (radius <= SHELL[1])

    def __call__(self, chi: ChiMap) -> Costs:
        """The costs of a map of this field."""
        field, grid, mask = self.field, self._grid, self.field.mask
        x = grid.place(chi.chi_ppm)
        gradient = self._gradient(x).abs_().mul_(self._inside).mul_(self._placed_mask())
        n_inside = int(mask.sum())
        spectrum = rfft3(x)
        bands = [float(spectrum.flatten()[band].abs().mean()) / n_inside for band in self._bands]
        explained = irfft3(multiply_spectrum(spectrum, self._dipole), grid.shape)[grid.inner]
        residual = (explained - field.field_ppm[grid.box])[mask[grid.box]]
        weight = field.weight[mask]
        weighted = residual * (weight / weight.mean())
        noise = field.noise_ppm
        whitened = math.nan if noise is None else float((residual / noise[mask]).square().mean(dtype=torch.float64))
        return Costs(
            misfit_ppm=math.sqrt(float(weighted.square().mean(dtype=torch.float64))),
            roughness_ppm_per_mm=float(gradient.sum(dtype=torch.float64)) / n_inside,
            band_ppm=(bands[0], bands[1], bands[2]),
            whitened=whitened,
        )
