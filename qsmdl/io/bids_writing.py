"""Writes simulated scans and their truth as a BIDS dataset (the layout that `io.bids` reads).

DATASET/dataset_description.json, README, sub-XX/anat/sub-XX_echo-N_part-{mag,phase}_MEGRE.nii.gz with sidecars; derivatives/qsmdl with its own
dataset_description.json, dseg.tsv and, for each subject, mask, local field, truth (Chimap) and labels (dseg); sourcedata/sub-XX/recipe.json.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from qsmdl import __version__
from qsmdl.errors import InputError
from qsmdl.io.bids import affine_of
from qsmdl.io.bids_files import ANAT, DERIVATIVES, DESCRIPTION, PIPELINE, SUFFIX
from qsmdl.io.evaluation import MARK, write_mark
from qsmdl.io.files import atomic_folder, read_json, write_json, write_text
from qsmdl.io.nifti import write_volume
from qsmdl.scan import LABELS, Geometry, Scan, Truth
from qsmdl.units import GAMMA_MHZ_PER_TESLA, hz_from_ppm

BIDS_VERSION = "1.10.0"
_GENERATOR = {"Name": "qsmdl", "Version": __version__, "Description": "qsmdl simulate: procedural phantom, dipole field, multi-echo signal, noise"}
_README = """Simulated multi-echo gradient-echo scans for quantitative susceptibility mapping, made by qsmdl.

Phase is in rad, wrapped, with phase = +2 pi gamma B0 TE field: paramagnetic tissue (iron, veins) has a positive field of its own.
B0 is along the world's z axis; B0_dir in the sidecars is the same direction in voxel axes. Sources lie inside the brain only, so the field is local.
derivatives/qsmdl holds the brain mask and, unless the data are blind, the true susceptibility (Chimap, ppm) and labels (dseg).
sourcedata holds what every scan was drawn as.
"""


def write_bids(
    root: Path | str,
    scan: Scan,
    truth: Truth | None = None,
    *,
    repetition_time_s: float | None = None,
    flip_angle_deg: float | None = None,
    recipe: Mapping[str, Any] | None = None,
    evaluation_data: str | None = None,
    gamma_mhz_per_tesla: float = GAMMA_MHZ_PER_TESLA,
    overwrite: bool = False,
) -> Path:
    """Writes a scan as a subject of the BIDS dataset at `root`, which is made or added to, and returns the subject's folder; its label is the scan's
    name without what BIDS does not allow in one.

    truth: becomes Chimap and dseg among the derivatives; recipe: what made the scan (its `recipe_digest` and `seed` also go into the sidecars);
    evaluation_data: where data that nothing may be trained on come from, which marks the dataset. Each folder appears complete or not at all, that
    with the echoes last. Raises InputError: the subject exists, the dataset is another's, truth on another grid, the disk refuses.
    """
    root, label = Path(root), re.sub(r"[^A-Za-z0-9]", "", scan.name)
    if not label:
        raise InputError(f"The scan's name {scan.name!r} has no letter or digit, so BIDS has no label for the subject. Give it another name.")
    if truth is not None and truth.geometry.shape != scan.geometry.shape:
        raise InputError(f"The truth has the shape {truth.geometry.shape}, the scan {scan.geometry.shape}; both must lie on one grid.")
    geometry = replace(scan.geometry, affine=affine_of(scan.geometry))
    subject = f"sub-{label}"
    _begin_dataset(root, evaluation_data)
    if recipe is not None:
        with atomic_folder(root / "sourcedata" / subject, overwrite, contents=("recipe",)) as hidden:
            write_json(hidden / "recipe.json", dict(recipe))
    with atomic_folder(root / DERIVATIVES / PIPELINE / subject, overwrite, contents=(ANAT,)) as hidden:
        _write_derivatives(hidden / ANAT, subject, replace(scan, geometry=geometry), truth, gamma_mhz_per_tesla)
    told: dict[str, Any] = {"MagneticFieldStrength": geometry.b0_tesla, "B0_dir": list(geometry.b0_direction), "MRAcquisitionType": "3D"}
    if repetition_time_s is not None:
        told |= {"RepetitionTime": repetition_time_s, "RepetitionTimeExcitation": repetition_time_s}
    if flip_angle_deg is not None:
        told |= {"FlipAngle": flip_angle_deg}
    if recipe is not None:
        told |= {"SimulatedBy": {"Name": "qsmdl", "Version": __version__} | {key: recipe[key] for key in ("recipe_digest", "seed") if key in recipe}}
    with atomic_folder(root / subject, overwrite, contents=(ANAT,)) as hidden:
        _write_echoes(hidden / ANAT, subject, replace(scan, geometry=geometry), told)
    return root / subject


def _begin_dataset(root: Path, evaluation_data: str | None) -> None:
    """The files of the whole dataset, where they are not there yet."""
    path = root / DESCRIPTION
    if path.exists():
        described = read_json(path)
        makers = described.get("GeneratedBy") if isinstance(described, dict) else None
        if not isinstance(makers, list) or not any(isinstance(maker, dict) and maker.get("Name") == PIPELINE for maker in makers):
            raise InputError(f"{root} is a BIDS dataset that qsmdl did not make, so nothing is added to it. Choose another folder.")
    else:
        common = {"BIDSVersion": BIDS_VERSION, "GeneratedBy": [_GENERATOR]}
        place = root / DERIVATIVES / PIPELINE
        write_json(place / DESCRIPTION, {"Name": "qsmdl: truth of simulated scans", "DatasetType": "derivative"} | common, overwrite=True)
        rows = "".join(f"{number}\t{name}\n" for name, number in LABELS.items())
        write_text(place / "dseg.tsv", "index\tname\n0\tbackground\n" + rows, overwrite=True)
        write_text(root / "README", _README, overwrite=True)
        write_json(path, {"Name": "qsmdl: simulated scans for QSM", "DatasetType": "raw"} | common)
    if evaluation_data is not None:
        write_text(root / ".bidsignore", f"{MARK}\n", overwrite=True)
        write_mark(root, evaluation_data, overwrite=True)


def _write(path: Path, volume: Tensor, geometry: Geometry, sidecar: Mapping[str, Any], dtype: Any = np.float32) -> None:
    """A volume and its .json."""
    write_volume(path.with_name(f"{path.name}.nii.gz"), volume, affine=geometry.affine, voxel_size_mm=geometry.voxel_size_mm, dtype=dtype)
    write_json(path.with_name(f"{path.name}.json"), dict(sidecar))


def _write_echoes(place: Path, subject: str, scan: Scan, told: Mapping[str, Any]) -> None:
    for number, (time, magnitude, phase) in enumerate(zip(scan.echo_times_s, scan.magnitude, scan.phase_rad, strict=True), start=1):
        echo = {"EchoTime": time, **told}
        for part, volume, units in (("mag", magnitude, "arbitrary"), ("phase", phase, "rad")):
            _write(place / f"{subject}_echo-{number}_part-{part}_{SUFFIX}", volume, scan.geometry, {**echo, "Units": units})


def _write_derivatives(place: Path, subject: str, scan: Scan, truth: Truth | None, gamma_mhz_per_tesla: float) -> None:
    geometry = scan.geometry
    source = [f"bids::{subject}/{ANAT}/{subject}_echo-1_part-mag_{SUFFIX}.nii.gz"]
    _write(place / f"{subject}_mask", scan.mask, geometry, {"Type": "Brain", "Sources": source}, np.uint8)
    if scan.frequency_ppm is not None:
        told = {"Units": "Hz", "Description": f"Local field; gamma/2pi {gamma_mhz_per_tesla:g} MHz/T", "Sources": source}
        frequency_hz = hz_from_ppm(scan.frequency_ppm, geometry.b0_tesla, gamma_mhz_per_tesla)
        _write(place / f"{subject}_desc-local_fieldmap", frequency_hz, geometry, told)
    if truth is not None:
        told = {"Units": "ppm", "Description": "True magnetic susceptibility of the phantom, 0 outside the brain mask"}
        _write(place / f"{subject}_Chimap", truth.chi_ppm, geometry, {**told, "MagneticFieldStrength": geometry.b0_tesla})
        _write(place / f"{subject}_dseg", truth.labels, geometry, {"Description": "Labels of the QSM challenge 2.0, see dseg.tsv"}, np.uint8)
