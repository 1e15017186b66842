"""The truths that submissions are scored against, found in a release or in a folder of truths alone."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsmdl.challenge.metrics import Scores, score
from qsmdl.challenge.plausibility import check_labels, check_units
from qsmdl.challenge.release import ReleaseScan, check_truth
from qsmdl.challenge.run import digest_of
from qsmdl.challenge.submission import SCANS
from qsmdl.challenge.truth import find_truth, read_truth
from qsmdl.errors import InputError
from qsmdl.scan import Geometry

LARGEST_SPREAD = 20.0
"""Largest plausible ratio of standard deviations, map over truth: noise that a bad inversion amplifies stays far below, ppb and Hz far above."""


@dataclass(frozen=True, eq=False, slots=True)
class Reference:
    """The truth of one scan as scoring takes it: chi_ppm [x, y, z], mask bool, labels uint8; geometry of the scan; data: the hash of chi_ppm that
    rows carry; fingerprint: a hash of all three volumes.
    """

    chi_ppm: NDArray[np.float32]
    mask: NDArray[np.bool_]
    labels: NDArray[np.integer[Any]]
    geometry: Geometry
    data: str
    fingerprint: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """(x, y, z)."""
        return self.geometry.shape

    def check_scaling(self, name: str, chi: NDArray[np.float32]) -> None:
        """Raises InputError where a map [x, y, z] of this scan is constant inside the mask, is in another unit than ppm (`plausibility.check_units`),
        or varies more than 20 times, or less than a 20th, as the truth does. name: what the message calls the map.
        """
        recon, truth = chi.astype(np.float64), self.chi_ppm.astype(np.float64)
        if np.ptp(recon[self.mask]) == 0:
            raise InputError(
                f"{name} is constant ({recon[self.mask][0]:g}) inside the mask, so it is no "
                "susceptibility map. Hand in the reconstruction."
            )
        check_units(recon, truth, self.mask, source=name, b0_tesla=self.geometry.b0_tesla)
        ratio = float(recon[self.mask].std() / truth[self.mask].std())
        if not 1 / LARGEST_SPREAD <= ratio <= LARGEST_SPREAD:
            raise InputError(
                f"{name} varies {ratio:.4g} times as much as the truth inside the mask; more than {LARGEST_SPREAD:g} times, or less than "
                f"1/{LARGEST_SPREAD:g}, cannot be a susceptibility map in ppm. Check its unit and hand it in again."
            )

    def score(self, chi: NDArray[np.float32], *, dialect: str, additional: bool) -> Scores:
        """`metrics.score` of a map [x, y, z] in ppm."""
        grid = self.geometry
        return score(
            chi,
            self.chi_ppm,
            self.mask,
            self.labels,
            dialect=dialect,
            additional=additional,
            voxel_size_mm=grid.voxel_size_mm,
            b0_direction=grid.b0_direction,
        )


def _places(root: Path) -> list[Path]:
    """The folder itself and the plain folders in it: releases keep stage 2 one level deeper."""
    return [root, *sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))]


def _find(root: Path, names: Iterable[str]) -> Path | None:
    return next((place / name for name in names for place in _places(root) if find_truth(place / name) is not None), None)


def _choose_stage(root: Path) -> int:
    stages = [stage for stage, scans in SCANS.items() if all(_find(root, [scan]) for scan in scans)]
    if len(stages) != 1:
        found = "the truths of both stages" if stages else f"no truth of every scan of a stage ({', '.join(SCANS[1])}, or {', '.join(SCANS[2])})"
        remedy = "Say which with --stage 1 or --stage 2." if stages else "Name the folder that holds Sim1/GT/Chi.nii, Sim2/GT/Chi.nii and so on."
        raise InputError(f"{root} holds {found}. {remedy}")
    return stages[0]


def find_references(root: Path | str, stage: int | None = None) -> tuple[int, dict[str, Path]]:
    """The stage, and the folder of every scan of it that a truth belongs to (`Sim1` where the truth is `Sim1/GT/Chi` or `Sim1GT/Chi`).

    stage: None takes the one whose truths are there. In stage 1, scans without a truth of their own take that of the same head in stage 2, as the
    challenge published its truth with the second stage only. Nothing is read. Raises InputError: no folder, a scan without truth, both stages and no
    choice.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder. Name the release, or the folder with the truths in the release's layout.")
    if stage is not None and stage not in SCANS:
        raise InputError(f"stage is {stage}, but must be 1 or 2.")
    stage = _choose_stage(root) if stage is None else stage
    folders = {}
    for scan in SCANS[stage]:
        names = [scan, f"{scan}Snr1", f"{scan}Snr2"] if stage == 1 else [scan]
        found = _find(root, names)
        if found is None:
            raise InputError(f"{root} holds no truth of {scan} (as {scan}/GT/Chi.nii or {scan}GT/Chi.nii, or .nii.gz); stage {stage} needs it.")
        folders[scan] = found
    return stage, folders


def _load(scan: str, folder: Path) -> Reference:
    truth = read_truth(folder)
    check_truth(ReleaseScan(scan, folder, has_truth=True), truth)
    fingerprint = digest_of(truth.chi_ppm, truth.mask, truth.labels)
    chi, mask, labels = truth.chi_ppm.numpy(), truth.mask.numpy(), truth.labels.numpy()
    if np.ptp(chi[mask]) == 0:
        raise InputError(f"The truth of {scan} in {folder} is constant ({chi[mask][0]:g}) inside the mask; nothing compares with it. Check the file.")
    check_labels(labels, mask, source=f"The segmentation of {scan} in {folder}", voxel_size_mm=truth.geometry.voxel_size_mm)
    return Reference(chi, mask, labels, truth.geometry, digest_of(truth.chi_ppm), fingerprint)


def load_references(folders: Mapping[str, Path]) -> dict[str, Reference]:
    """Reads the truths that `find_references` found. Raises InputError as `truth.read_truth`, for Sim2 without its calcification, missing labels
    (`plausibility.check_labels`), a constant truth, and truths on different grids.
    """
    references = {scan: _load(scan, folder) for scan, folder in folders.items()}
    shapes = {scan: reference.shape for scan, reference in references.items()}
    if len(set(shapes.values())) > 1:
        raise InputError(f"The truths lie on different grids: {shapes}. The challenge's scans share one; check the release.")
    return references
