"""qsmdl score: the metrics of one map, in one dialect or all."""

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qsmdl.challenge.conventions import convention_of
from qsmdl.challenge.dialects import DIALECTS, find_dialect, why_they_differ
from qsmdl.challenge.metrics import ADDITIONAL_METRICS, METRICS, score_dialects
from qsmdl.challenge.plausibility import check_labels, check_orientation, check_units
from qsmdl.challenge.volumes import Scores
from qsmdl.errors import InputError
from qsmdl.io.checks import finite_inside
from qsmdl.io.nifti import HeaderInfo, read_volume

logger = logging.getLogger(__name__)

_DIGITS = 4


def _read(paths: dict[str, Path]) -> tuple[dict[str, NDArray[np.float64]], dict[str, HeaderInfo]]:
    """The volumes in float64, by what they are, all on the truth's grid."""
    read = {name: read_volume(path, ndim=3, dtype=np.float64) for name, path in paths.items()}
    arrays, headers = {name: volume.numpy() for name, (volume, _) in read.items()}, {name: header for name, (_, header) in read.items()}
    truth = headers["truth"]
    for header in headers.values():
        if header.shape[:3] != truth.shape[:3]:
            raise InputError(
                f"{header.path} has the shape {header.shape}, but {truth.path} has {truth.shape}. Resample them to one grid before scoring."
            )
        if not np.allclose(header.voxel_size_mm, truth.voxel_size_mm, rtol=0.02):
            logger.warning("%s has voxels of %s mm, %s of %s mm; that of the truth is used.",
                           header.path, header.voxel_size_mm, truth.path, truth.voxel_size_mm)  # fmt: skip
    return arrays, headers


def _checked(arguments: argparse.Namespace) -> dict[str, Scores]:
    """{dialect: scores} of the files named. Raises InputError naming the file at fault, before anything is computed."""
    paths = {"recon": arguments.chi, "truth": arguments.truth, "mask": arguments.mask, "segmentation": arguments.segmentation}
    arrays, headers = _read(paths)
    mask = arrays["mask"] > 0
    if not mask.any():
        raise InputError(f"The mask {arguments.mask} is empty: no voxel is above 0, so there is nothing to score. Use the scan's MaskBrainExtracted.")
    truth = finite_inside(arguments.truth, torch.from_numpy(arrays["truth"]), torch.from_numpy(mask)).numpy()
    finite = np.nan_to_num(arrays["recon"], nan=0.0, posinf=0.0, neginf=0.0)
    check_units(finite, truth, mask, source=str(arguments.chi), b0_tesla=arguments.b0)
    check_orientation(finite, truth, mask, (headers["recon"].affine, headers["truth"].affine), source=str(arguments.chi))
    if not arguments.allow_missing_labels:
        labels = np.rint(np.nan_to_num(arrays["segmentation"])).astype(np.int64)
        check_labels(labels, mask, source=str(arguments.segmentation), scan=arguments.scan, voxel_size_mm=headers["truth"].voxel_size_mm)
    return score_dialects(
        finite,
        truth,
        mask,
        arrays["segmentation"],
        dialects=DIALECTS if arguments.dialect == "all" else (arguments.dialect,),
        additional=arguments.additional,
        voxel_size_mm=headers["truth"].voxel_size_mm,
        b0_direction=tuple(arguments.b0_direction),
    )


def _plain(scores: Scores, dialect: str, truth: Path) -> dict[str, Any]:
    return {**scores, "dialect": dialect, "truth": str(truth), "convention": convention_of(truth)}


def _table(scores: dict[str, Scores], arguments: argparse.Namespace) -> Table:
    title = f"{arguments.chi} against {arguments.truth} (convention: {convention_of(arguments.truth)})"
    table = Table("metric", "unit", title=escape(title), title_justify="left", box=None)
    for dialect in scores:
        table.add_column(f"dialect {dialect}", justify="right")
    for key, metric in (METRICS | ADDITIONAL_METRICS).items():
        if all(key in found for found in scores.values()):
            values = [found[key] for found in scores.values()]
            better = "" if metric.lower_is_better else " (higher is better)"
            table.add_row(metric.paper + better, metric.unit, *("undefined" if v is None else f"{v:.{_DIGITS}g}" for v in values))
    return table


def score_map(arguments: argparse.Namespace) -> None:
    """Print the metrics as a table, or as JSON with the keys of the challenge's evaluation code (undefined: null).

    The JSON of one dialect is a flat object that says its dialect, truth and convention; that of all is an object {dialect: such an object}.
    """
    if arguments.scan is not None and arguments.allow_missing_labels:
        raise InputError("--scan checks the segmentation, which --allow-missing-labels leaves unchecked. Pass one of the two.")
    scores = _checked(arguments)
    if arguments.json:
        plain = {dialect: _plain(found, dialect, arguments.truth) for dialect, found in scores.items()}
        sys.stdout.write(json.dumps(plain if arguments.dialect == "all" else plain[arguments.dialect]) + "\n")
        return
    console = Console(width=120)
    console.print(_table(scores, arguments))
    told = f"{why_they_differ()} Numbers of different dialects do not compare." if len(scores) > 1 else ""
    console.print(escape(told or f"Dialect {arguments.dialect}: {find_dialect(arguments.dialect).summary}."), highlight=False)
