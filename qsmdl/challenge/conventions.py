"""Several truths for one scan: how a fine susceptibility map becomes one of the scan's voxels is a convention, and scores depend on it.

- "unrung": k-space crop, then ringing removed by local sub-voxel shifts: what the QSM Reconstruction Challenge 2.0 compares with
  (Magn Reson Med 2021;86:1241-1255). It is not dipole-consistent: the map that explains the field perfectly does not score 0 against it;
- "crop": the k-space crop alone, which rings at edges and explains the scan's field;
- "cell": the mean over the cell of each voxel, which neither rings nor explains the field exactly.

On one and the same map the choice moves the NRMSE by up to ten points, so a score names it (`Row["convention"]`). For truths read from a release the
name is "release" for the one handed out, whatever made it.
"""

from dataclasses import replace
from pathlib import Path
from typing import get_args

from qsmdl.challenge.truth import find_truth, read_truth
from qsmdl.data.recipe import Recipe, VolumeParams, acquisition_of, render_phantom
from qsmdl.io.checks import check_same_grid, finite_inside
from qsmdl.io.nifti import has_nifti, read_volume
from qsmdl.io.rc2 import CHI, convention_stem
from qsmdl.phantom.scanning.acquire import TruthKind, make_truths, scan_grid
from qsmdl.scan import Truth

CONVENTIONS: tuple[TruthKind, ...] = get_args(TruthKind)
"""The names, the challenge's own first."""
RELEASE = "release"


def truths_by_convention(recipe: Recipe, params: VolumeParams) -> dict[str, Truth]:
    """The truths {convention: truth} of a drawn volume (`data.recipe.draw_volume`), on the grid and with the mask and labels of its scan."""
    phantom = render_phantom(recipe, params)
    truths = make_truths(phantom, *scan_grid(phantom, acquisition_of(recipe, params)), CONVENTIONS)
    return {str(convention): truth for convention, truth in truths.items()}


def read_truths(folder: Path | str) -> dict[str, Truth]:
    """The truths {convention: truth} of the scan in a folder: "release" for `Chi`, and what lies beside it as `Chi_crop`, `Chi_cell`, ...

    Raises InputError as `truth.read_truth`.
    """
    truths = {RELEASE: read_truth(folder)}
    place = find_truth(folder)
    for convention in CONVENTIONS:
        stem = convention_stem(convention)
        if place is not None and has_nifti(place, stem):
            chi_ppm, header = read_volume(place / stem, ndim=3)
            mask = truths[RELEASE].mask
            check_same_grid(place / CHI, tuple(mask.shape), header.path, tuple(chi_ppm.shape))
            truths[convention] = replace(truths[RELEASE], chi_ppm=finite_inside(header.path, chi_ppm, mask))
    return truths


def convention_of(path: Path | str) -> str:
    """The convention of a truth's file by its name: Chi_crop.nii.gz holds "crop"; any other name is the "release"'s own."""
    stem = Path(path).name.removesuffix(".gz").removesuffix(".nii")
    return next((convention for convention in CONVENTIONS if stem == convention_stem(convention)), RELEASE)
