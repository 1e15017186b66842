"""Plug-and-play with a trained denoiser: a learned regulariser inside a classical solver."""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from qsmdl.about import about
from qsmdl.data.inputs import noise_level_map
from qsmdl.errors import InputError
from qsmdl.methods.doubts import doubts_of
from qsmdl.methods.method import OnStep
from qsmdl.methods.weights import load_network
from qsmdl.networks.scaling import PpmAdapter
from qsmdl.scan import ChiMap, FieldMap
from qsmdl.solvers.plug_and_play import noise_levels, plug_and_play
from qsmdl.solvers.problem import Problem
from qsmdl.validation import check_positive


class _Denoiser:
    """A network as `solvers.plug_and_play.Denoise`: susceptibility has no zero, so the mean in the mask is taken away first and given back."""

    def __init__(self, network: PpmAdapter, mask: Tensor) -> None:
        self._network, self._mask = network, mask[None, None]

    def __call__(self, chi_ppm: Tensor, level_ppm: float) -> Tensor:
        inside = self._mask[0, 0]
        mean = chi_ppm[inside].mean()
        centred = ((chi_ppm - mean) * inside)[None, None].float()
        prior = torch.cat([centred, noise_level_map(self._mask, level_ppm)], 1)
        weight = self._mask.float()
        denoised: Tensor = self._network(torch.zeros_like(centred), prior, self._mask, weight)
        return (denoised[0, 0] + mean).to(chi_ppm) * inside


@about(
    kind="deep learning",
    reference="Venkatakrishnan et al., GlobalSIP 2013; Zhang et al., DPIR, IEEE Trans Pattern Anal Mach Intell 2022",
    weights="denoiser",
    parameter="strength",
)
@torch.no_grad()
def pnp(
    field: FieldMap,
    *,
    checkpoint: str | Path | None = None,
    strength: float = 1.0,
    first_noise_ppm: float = 0.03,
    last_noise_ppm: float = 0.004,
    n_iterations: int = 16,
    n_inner: int = 3,
    data_penalty: float = 1.0,
    echo_time_s: float = 0.003,
    field_noise_ppm: float | None = None,
    padding: float | None = 1.25,
    on_step: OnStep | None = None,
) -> ChiMap:
    """Nonlinear dipole inversion with a denoiser in place of total variation (`solvers.plug_and_play`); the denoiser has seen susceptibility only, so
    nothing of it depends on field, noise, echoes or direction of B0.

    checkpoint: a denoiser's weights (train.py experiment=denoiser); strength: of the regularisation, 1 is what the noise asks for; first_noise_ppm
    and last_noise_ppm: what the denoiser is told, from the first step to the last; field_noise_ppm: standard deviation of the field's noise, None to
    take the field map's, of a voxel of weight 1. n_inner, data_penalty, echo_time_s, padding: as
    the splitting of `nltv`. Raises InputError where no noise is known, and for weights of another kind of network.
    """
    check_positive(strength=strength, data_penalty=data_penalty, echo_time_s=echo_time_s)
    if n_inner < 1:
        raise InputError(f"n_inner is {n_inner}; at least one step is needed.")
    levels = noise_levels(first_noise_ppm, last_noise_ppm, n_iterations)
    network, prior, card = load_network(checkpoint, "denoiser")
    if prior.start != "noise":
        raise InputError(f"The weights are of a network that corrects maps of {prior.start!r}, not of a denoiser. Train one: experiment=denoiser.")
    problem = Problem.of(field, padding=padding)
    mask = problem.mask[problem.grid.inner]
    found = plug_and_play(
        problem,
        _Denoiser(network.to(field.field_ppm.device), mask),
        field_noise_ppm=_noise_of(field, field_noise_ppm),
        levels_ppm=levels,
        strength=strength,
        data_penalty=data_penalty,
        n_inner=n_inner,
        rad_per_ppm=problem.radians(echo_time_s),
        on_step=on_step,
    )
    chi = problem.chi_map(found)
    return dataclasses.replace(chi, outcome=dataclasses.replace(chi.outcome, doubts=doubts_of(card, field, None, chi.chi_ppm)))


def _noise_of(field: FieldMap, given: float | None) -> float:
    """The noise of a voxel of weight 1."""
    if given is not None:
        check_positive(field_noise_ppm=given)
        return given
    if field.noise_ppm is None:
        raise InputError("The noise of this field map is not known. Give field_noise_ppm, its standard deviation in ppm (7 T, SNR 40: 7e-4).")
    # weight = k / noise with mean 1, so noise times weight is k everywhere.
    return float((field.noise_ppm * field.weight)[field.mask].median())
