"""Scans to judge methods on: the built-in phantoms, and folders in the challenge's layout."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from qsmdl import __version__
from qsmdl.challenge.release import ReleaseScan, check_truth, find_scans
from qsmdl.challenge.run import Case
from qsmdl.challenge.truth import read_truth
from qsmdl.data.orientations import MAX_ORIENTATIONS, orientations_of, render_orientations
from qsmdl.data.recipe import Recipe, VolumeParams, draw_volume, render_volume, volume_seed
from qsmdl.errors import InputError
from qsmdl.io.files import read_json
from qsmdl.io.layouts import header_source, read_orientations, read_scan
from qsmdl.io.rc2 import write_release
from qsmdl.phantom.tissue.contrast import ContrastName
from qsmdl.physics.fieldmap import fit_field
from qsmdl.scan import LABELS, FieldMap, Scan
from qsmdl.units import GAMMA_MHZ_PER_TESLA

FieldSource = Literal["fit", "frequency"]
CHALLENGE_CONTRASTS: tuple[ContrastName, ...] = ("sim1", "sim2")
STAGE_2_SNR_FACTOR = 10.0
"""Snr2 over Snr1: the challenge had peak SNRs of 100 and 1000."""


def field_of(scan: Scan, source: FieldSource = "fit") -> FieldMap:
    """The field map of a scan: "fit" over all echoes, or the "frequency" map handed out with it (with the fit's noise, which is a little too
    optimistic).
    """
    if source not in ("fit", "frequency"):
        raise InputError(f"field is {source!r}; it must be 'fit' or 'frequency'.")
    fitted = fit_field(scan)
    fitted = FieldMap(fitted.geometry, fitted.field_ppm, fitted.mask, fitted.weight, fitted.noise_ppm, fitted.kind, scan.name)
    if source == "fit":
        return fitted
    if scan.frequency_ppm is None:
        raise InputError(f"{scan.name} holds no Frequency map. Use field=fit.")
    values = torch.where(scan.mask, scan.frequency_ppm, 0.0)
    return FieldMap(scan.geometry, values, scan.mask, fitted.weight, fitted.noise_ppm, "local", scan.name)


def _builtin_recipe(n_pairs: int, voxel_size_mm: float, peak_snr: float) -> Recipe:
    if n_pairs < 1:
        raise InputError(f"n_pairs is {n_pairs}; at least one pair is needed.")
    return Recipe(contrast="sim1", voxel_size_mm=(voxel_size_mm, voxel_size_mm), peak_snr=(peak_snr, peak_snr))


def builtin_cases(
    *,
    n_pairs: int = 1,
    voxel_size_mm: float = 1.6,
    peak_snr: float = 100.0,
    n_orientations: int = 1,
    field: FieldSource = "fit",
    seed: int = 0,
) -> list[Case]:
    """Held-out built-in phantoms: each head as Sim1 and as Sim2, drawn from the "test" stream, which no training sees.

    n_orientations: of each head to B0, the first along z (`data.orientations`); more than one is what COSMOS needs.
    """
    recipe = _builtin_recipe(n_pairs, voxel_size_mm, peak_snr)
    cases = []
    for index in range(n_pairs):
        for contrast in CHALLENGE_CONTRASTS:
            name = contrast.capitalize() + ("" if n_pairs == 1 else f"_{index}")
            params = draw_volume(recipe, volume_seed("test", seed, index), contrast=contrast, name=name)
            scan, truth = render_volume(recipe, params)
            others = render_orientations(recipe, orientations_of(params, n_orientations)[1:])
            cases.append(Case(name, field_of(scan, field), scan, truth, orientations=tuple(field_of(other, field) for other in others)))
    return cases


def draw_release(
    stage: int,
    *,
    n_pairs: int = 1,
    voxel_size_mm: float = 1.6,
    peak_snr: float = 100.0,
    contrasts: Sequence[ContrastName] = CHALLENGE_CONTRASTS,
    seed: int = 0,
) -> list[tuple[Recipe, VolumeParams]]:
    """What the scans of a release of built-in phantoms are drawn as, in the order Sim1, Sim2 (stage 1) or Sim1Snr1, Sim2Snr1, Sim1Snr2, Sim2Snr2
    (stage 2, where Snr2 has ten times the peak SNR and noise of its own).
    """
    drawn = []
    for level in range(1 if stage == 1 else 2):
        recipe = _builtin_recipe(n_pairs, voxel_size_mm, peak_snr * STAGE_2_SNR_FACTOR**level)
        for index in range(n_pairs):
            for contrast in contrasts:
                name = contrast.capitalize() + (f"Snr{level + 1}" if stage == 2 else "") + ("" if n_pairs == 1 else f"_{index}")
                params = draw_volume(recipe, volume_seed("test", seed, index), contrast=contrast, name=name)
                # Noise of its own, also beside that of the orientations of the other level.
                drawn.append((recipe, dataclasses.replace(params, noise_seed=params.noise_seed + level * MAX_ORIENTATIONS)))
    return drawn


def write_builtin_release(
    root: Path, *, stage: int, n_pairs: int = 1, voxel_size_mm: float = 1.6, peak_snr: float = 100.0, n_orientations: int = 1, seed: int = 0
) -> list[str]:
    """Writes the heads of `builtin_cases` as a release: Sim1 and Sim2 for stage 1, Sim1Snr1 to Sim2Snr2 for stage 2; returns the names of the scans.

    Snr1 has the peak SNR given, Snr2 ten times as much (the challenge: 100 and 1000) with noise of its own. Scans that an earlier call wrote with the
    same settings are left as they are. Raises InputError where one of other settings is in the way.
    """
    volumes = draw_release(stage, n_pairs=n_pairs, voxel_size_mm=voxel_size_mm, peak_snr=peak_snr, seed=seed)
    for recipe, params in volumes:
        _write_once(root / params.name, recipe, params, n_orientations)
    return [params.name for _, params in volumes]


def _write_once(folder: Path, recipe: Recipe, params: VolumeParams, n_orientations: int) -> None:
    turns = orientations_of(params, n_orientations)[1:]
    made_by: dict[str, Any] = {"qsmdl_version": __version__, "volume": dataclasses.asdict(params), "recipe": recipe.to_plain()}
    if turns:
        made_by["orientations"] = [dataclasses.asdict(turn) for turn in turns]
    if folder.exists():
        if read_json(folder / "recipe.json") != json.loads(json.dumps(made_by)):
            raise InputError(f"{folder} was simulated with other settings (see its recipe.json). Choose another hydra.run.dir.")
        return
    scan, truth = render_volume(recipe, params)
    if params.contrast == "sim2" and not bool((truth.labels == LABELS["calcification"]).any()):
        raise InputError(
            f"At {params.voxel_size_mm[0]:g} mm the calcification of {folder.name} falls between the voxels, but two of the challenge's metrics "
            "need it. Lower data.voxel_size_mm, or change the seed."
        )
    write_release(folder, scan, truth, orientations=render_orientations(recipe, turns), recipe=made_by)


def read_case(scan: ReleaseScan, *, field: FieldSource = "fit", gamma_mhz_per_tesla: float = GAMMA_MHZ_PER_TESLA) -> Case:
    """One scan of a release with its field map, without truth."""
    echoes = read_scan(scan.folder, gamma_mhz_per_tesla=gamma_mhz_per_tesla)
    others = read_orientations(scan.folder, gamma_mhz_per_tesla=gamma_mhz_per_tesla)
    return Case(scan.name, field_of(echoes, field), echoes, None, header_source(scan.folder), tuple(field_of(other, field) for other in others))


def release_cases(
    *,
    root: str | Path,
    scans: list[str] | None = None,
    field: FieldSource = "fit",
    gamma_mhz_per_tesla: float = GAMMA_MHZ_PER_TESLA,
    seed: int = 0,
) -> list[Case]:
    """Scans in the challenge's layout, or in that of BIDS or QSM-CI (`release.find_scans`); truths are read where they lie beside the data.

    seed is not used.
    """
    cases = []
    for found in find_scans(root, names=scans):
        case = read_case(found, field=field, gamma_mhz_per_tesla=gamma_mhz_per_tesla)
        truth = read_truth(found.folder) if found.has_truth else None
        if truth is not None:
            check_truth(found, truth)
        cases.append(dataclasses.replace(case, truth=truth))
    return cases


def scan_cases(
    *,
    root: str | Path | None = None,
    scans: list[str] | None = None,
    gamma_mhz_per_tesla: float = GAMMA_MHZ_PER_TESLA,
    n_pairs: int = 1,
    voxel_size_mm: float = 1.6,
    peak_snr: float = 100.0,
    n_orientations: int = 1,
    field: FieldSource = "fit",
    seed: int = 0,
) -> list[Case]:
    """The scans of a release where `root` names one (`release_cases`), else the built-in phantoms (`builtin_cases`)."""
    if root is None:
        return builtin_cases(
            n_pairs=n_pairs, voxel_size_mm=voxel_size_mm, peak_snr=peak_snr, n_orientations=n_orientations, field=field, seed=seed
        )
    return release_cases(root=root, scans=scans, field=field, gamma_mhz_per_tesla=gamma_mhz_per_tesla)
