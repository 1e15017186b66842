"""The truths of an evaluation, kept beside its maps so that a report can show them: RUN_FOLDER/truth/SCAN in the layout of a release.

They are written after everything has been scored, and `truth.read_truth` reads them.
"""

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from qsmdl.challenge.run import Case
from qsmdl.io.files import atomic_folder, write_json
from qsmdl.io.nifti import write_volume
from qsmdl.io.params import FILE_NAME
from qsmdl.io.rc2 import CHI, MASK, SEGMENTATION, TRUTH_FOLDER

FOLDER = "truth"


def keep_truth(run_folder: Path | str, case: Case) -> None:
    """Writes RUN_FOLDER/truth/SCAN with MaskBrainExtracted (the mask of the metrics), GT/Chi (ppm), GT/Segmentation and params.json; nothing for a
    blind scan. Replaces what was kept before. Raises InputError where the disk refuses.
    """
    truth = case.truth
    if truth is None:
        return
    chi, segmentation = f"{TRUTH_FOLDER}/{CHI}", f"{TRUTH_FOLDER}/{SEGMENTATION}"
    volumes: list[tuple[str, Tensor, Any]] = [(MASK, truth.mask, np.uint8), (chi, truth.chi_ppm, np.float32), (segmentation, truth.labels, np.uint8)]
    geometry = truth.geometry
    with atomic_folder(Path(run_folder) / FOLDER / case.name, overwrite=True, contents=(MASK, TRUTH_FOLDER, "params")) as hidden:
        for name, volume, dtype in volumes:
            path = hidden / f"{name}.nii.gz"
            write_volume(path, volume, affine=geometry.affine, voxel_size_mm=geometry.voxel_size_mm, like=case.header_source, dtype=dtype)
        if case.scan is not None:
            params = {"B0": geometry.b0_tesla, "TE": list(case.scan.echo_times_s), "B0_dir": list(geometry.b0_direction)}
            write_json(hidden / FILE_NAME, params | {"voxel_size": list(geometry.voxel_size_mm)})
