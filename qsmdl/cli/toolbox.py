"""qsmdl simulate --from-toolbox: the challenge's scans from the head of its own toolbox, by its protocol."""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from qsmdl import __version__
from qsmdl.challenge.cases import CHALLENGE_CONTRASTS, STAGE_2_SNR_FACTOR
from qsmdl.challenge.conventions import CONVENTIONS
from qsmdl.challenge.evaluation_data import register_scan, register_truth
from qsmdl.cli.layouts import Product
from qsmdl.cli.progress import console
from qsmdl.data.recipe import volume_seed
from qsmdl.data.sources import recipe_digest
from qsmdl.errors import InputError
from qsmdl.io.toolbox import SOURCE, ToolboxModel, find_model, read_model
from qsmdl.phantom.scanning.acquire import Acquisition, acquire, make_truths
from qsmdl.phantom.scanning.local_field import local_field
from qsmdl.phantom.tissue.contrast import ContrastName
from qsmdl.scan import Geometry

CHALLENGE_MM = 0.64
"""Voxel size of the challenge's model; the paper says 0.65."""


def protocol(geometry: Geometry, voxel_size_mm: float, peak_snr: float) -> Acquisition:
    """The challenge's protocol (TE 4, 12, 20, 28 ms, TR 50 ms, flip angle 15 degrees) on isotropic voxels over the field of view of a model.

    Raises InputError for voxels that are finer than the model's.
    """
    x, y, z = (round(n * size / voxel_size_mm) for n, size in zip(geometry.shape, geometry.voxel_size_mm, strict=True))
    if any(m > n or m < 1 for m, n in zip((x, y, z), geometry.shape, strict=True)):
        size = " x ".join(f"{v:g}" for v in geometry.voxel_size_mm)
        raise InputError(
            f"--voxel-size {voxel_size_mm:g} mm does not fit the toolbox's model of {geometry.shape} voxels of {size} mm: a scan's voxels are "
            "coarser than the model's and fit into its field of view. Pass a larger --voxel-size."
        )
    return Acquisition(peak_snr=peak_snr, shape=(x, y, z))


def scan_names(contrasts: Sequence[ContrastName], stage: int) -> list[str]:
    """The scans of a stage, of each head both noise levels in turn: Sim1Snr1, Sim1Snr2, ..."""
    levels = ("",) if stage == 1 else ("Snr1", "Snr2")
    return [contrast.capitalize() + level for contrast in contrasts for level in levels]


def _told(model: ToolboxModel, acquisition: Acquisition, voxel_size_mm: float) -> dict[str, Any]:
    """The recipe of a toolbox's scan: which files (hashes of their values), which protocol."""
    return {
        "toolbox": model.contents,
        "voxel_size_mm": voxel_size_mm,
        "echo_times_s": list(acquisition.echo_times_s),
        "repetition_time_s": acquisition.repetition_time_s,
        "flip_angle_deg": acquisition.flip_angle_deg,
        "peak_snr": acquisition.peak_snr,
        "b0_tesla": model.phantom.geometry.b0_tesla,
        "truth": "unrung",
    }


def _products(arguments: argparse.Namespace, model: ToolboxModel, stage: int, with_field: bool) -> Iterator[Product]:
    """The scans of one model, at the noise levels of the stage."""
    phantom, names = model.phantom, scan_names([CHALLENGE_CONTRASTS[model.simulation - 1]], stage)
    for level, name in enumerate(names):
        acquisition = protocol(phantom.geometry, arguments.voxel_size, arguments.peak_snr * STAGE_2_SNR_FACTOR**level)
        noise_seed = volume_seed("test", arguments.seed, 2 * level + model.simulation - 1)
        scan, truth = acquire(phantom, acquisition, torch.Generator().manual_seed(noise_seed), truth="unrung", name=name)
        register_truth(f"{name.removesuffix(f'Snr{level + 1}')} of the toolbox", truth, source=SOURCE)
        register_scan(f"{name} of the toolbox, its echoes", scan, source=SOURCE)
        others = [kind for kind in CONVENTIONS if kind != "unrung"] if arguments.conventions else []
        conventions = {str(kind): other for kind, other in make_truths(phantom, truth.geometry, truth.mask, others).items()} if others else {}
        recipe = _told(model, acquisition, arguments.voxel_size)
        made_by = {"qsmdl_version": __version__, "seed": arguments.seed, "recipe_digest": recipe_digest(recipe), "recipe": recipe}
        yield Product(
            scan=scan,
            truth=None if arguments.no_truth else truth,
            acquisition=acquisition,
            made_by={**made_by, "volume": {"name": name, "noise_seed": noise_seed}, "evaluation_data": SOURCE},
            conventions=conventions,
            local_field_ppm=local_field(phantom, truth.geometry) if with_field else None,
            evaluation_data=SOURCE,
        )


def toolbox_products(arguments: argparse.Namespace, contrasts: Sequence[ContrastName], stage: int, *, with_field: bool) -> Iterator[Product]:
    """The scans of the challenge from the toolbox's data, head after head; every truth and scan is registered as evaluation data before it is handed
    out.

    Raises InputError as `io.toolbox.read_model`, for all heads before the first is scanned where a file is missing.
    """
    simulations = [CHALLENGE_CONTRASTS.index(contrast) + 1 for contrast in contrasts]
    for simulation in simulations:
        find_model(arguments.from_toolbox, simulation)
    for simulation in simulations:
        model = read_model(arguments.from_toolbox, simulation)
        geometry = model.phantom.geometry
        if any(abs(size - CHALLENGE_MM) > 0.02 for size in geometry.voxel_size_mm):
            console.print(f"  The model of Sim{simulation} is {geometry}; the challenge's has voxels of {CHALLENGE_MM:g} mm.", highlight=False)
        yield from _products(arguments, model, stage, with_field)
