"""qsmdl score: the official metrics of one map."""

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from qsmdl.challenge.metrics import METRICS, score
from qsmdl.errors import InputError
from qsmdl.io.nifti import read_volume


def score_map(chi: Path, truth: Path, mask: Path, segmentation: Path, *, as_json: bool) -> None:
    """Print the metrics as a table, or as JSON with the keys of the challenge's evaluation code (undefined: null)."""
    read = {path: read_volume(path, ndim=3)[0].numpy() for path in (chi, truth, mask, segmentation)}
    for path, volume in read.items():
        if volume.shape != read[chi].shape:
            raise InputError(f"{path} has the shape {volume.shape}, but {chi} has {read[chi].shape}. Resample them to one grid before scoring.")
    metrics = score(read[chi], read[truth], read[mask] > 0, read[segmentation])
    if as_json:
        sys.stdout.write(json.dumps(metrics) + "\n")
        return
    table = Table("metric", "value", "unit", box=None)
    for key, metric in METRICS.items():
        value = metrics.get(key)
        table.add_row(metric.paper, "undefined" if value is None else f"{value:.4g}", metric.unit)
    Console(width=100).print(table)
