"""Scans to judge methods on: the built-in phantoms, and folders in the challenge's layout."""

from pathlib import Path
from typing import Literal

import torch

from qsmdl.challenge.run import Case
from qsmdl.challenge.truth import find_truth, read_truth
from qsmdl.data.recipe import Recipe, draw_volume, render_volume, volume_seed
from qsmdl.errors import InputError
from qsmdl.io.nifti import has_nifti
from qsmdl.io.rc2 import header_source, read_scan
from qsmdl.phantom.contrast import ContrastName
from qsmdl.physics.fieldmap import fit_field
from qsmdl.scan import FieldMap, Scan
from qsmdl.units import GAMMA_MHZ_PER_TESLA

FieldSource = Literal["fit", "frequency"]
CHALLENGE_CONTRASTS: tuple[ContrastName, ...] = ("sim1", "sim2")


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


def builtin_cases(*, n_pairs: int = 1, voxel_size_mm: float = 1.6, peak_snr: float = 100.0, field: FieldSource = "fit", seed: int = 0) -> list[Case]:
    """Held-out built-in phantoms: each head as Sim1 and as Sim2, drawn from the "test" stream, which no training sees."""
    if n_pairs < 1:
        raise InputError(f"n_pairs is {n_pairs}; at least one pair is needed.")
    recipe = Recipe(contrast="sim1", voxel_size_mm=(voxel_size_mm, voxel_size_mm), peak_snr=(peak_snr, peak_snr))
    cases = []
    for index in range(n_pairs):
        for contrast in CHALLENGE_CONTRASTS:
            name = contrast.capitalize() + ("" if n_pairs == 1 else f"_{index}")
            params = draw_volume(recipe, volume_seed("test", seed, index), contrast=contrast, name=name)
            scan, truth = render_volume(recipe, params)
            cases.append(Case(name, field_of(scan, field), scan, truth))
    return cases


def release_cases(
    *, root: str | Path, scans: list[str] | None = None, field: FieldSource = "fit", gamma_mhz_per_tesla: float = GAMMA_MHZ_PER_TESLA, seed: int = 0
) -> list[Case]:
    """Scans in the challenge's layout: `root` is one scan or a folder of scans; truths are read where they lie beside the data. seed is not used."""
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder. data.root names a folder of scans in the challenge's layout.")
    folders = [root] if has_nifti(root, "Phase") else sorted(p for p in root.iterdir() if p.is_dir() and has_nifti(p, "Phase"))
    if scans is not None:
        missing = sorted(set(scans) - {f.name for f in folders})
        if missing:
            raise InputError(f"{root} holds no scan {missing[0]!r}; it holds {', '.join(f.name for f in folders) or 'none'}.")
        folders = [f for f in folders if f.name in scans]
    if not folders:
        raise InputError(f"{root} holds no scan: a scan is a folder with Phase, Magnitude and MaskBrainExtracted as .nii or .nii.gz.")
    cases = []
    for folder in folders:
        scan = read_scan(folder, gamma_mhz_per_tesla=gamma_mhz_per_tesla)
        truth = read_truth(folder) if find_truth(folder) else None
        cases.append(Case(folder.name, field_of(scan, field), scan, truth, header_source(folder)))
    return cases
