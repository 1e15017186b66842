"""The three layouts of a scan's folder, told apart by what lies in it, behind one face: "rc2" (`io.rc2`), "bids" (`io.bids`), "qsm-ci" (`io.qsm_ci`).

Truths are not read here (`challenge.truth`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from torch import Tensor

from qsmdl.io import bids, bids_files, qsm_ci, rc2
from qsmdl.io.nifti import HeaderInfo
from qsmdl.scan import Geometry, Scan
from qsmdl.units import GAMMA_MHZ_PER_TESLA

Layout = Literal["rc2", "bids", "qsm-ci"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
_SCAN: dict[Layout, Callable[..., Scan]] = {"rc2": rc2.read_scan, "bids": bids.read_scan, "qsm-ci": qsm_ci.read_scan}
_MASK: dict[Layout, Callable[..., tuple[Tensor, Geometry, HeaderInfo]]] = {
    "rc2": rc2.read_mask_and_geometry,
    "bids": bids.read_mask_and_geometry,
    "qsm-ci": qsm_ci.read_mask_and_geometry,
}
_HEADER: dict[Layout, Callable[..., Path]] = {"rc2": rc2.header_source, "bids": bids.header_source, "qsm-ci": qsm_ci.header_source}


def layout_of(folder: Path | str) -> Layout:
    """The layout of a scan's folder; "rc2" where nothing tells, so that what is missing is told in its words."""
    folder = Path(folder)
    if bids_files.is_dataset(folder) or bids_files.is_scan(folder):
        return "bids"
    return "qsm-ci" if qsm_ci.is_scan(folder) else "rc2"


def scan_name(folder: Path | str) -> str:
    """How tables call the scan in a folder."""
    folder = Path(folder)
    names = {"bids": bids_files.scan_name, "qsm-ci": qsm_ci.scan_name}
    return names.get(layout_of(folder), lambda path: path.resolve().name)(folder)


def read_scan(folder: Path | str, *, gamma_mhz_per_tesla: float = GAMMA_MHZ_PER_TESLA) -> Scan:
    """The scan in a folder of any layout: `rc2.read_scan`, `bids.read_scan` or `qsm_ci.read_scan`, and their errors."""
    return _SCAN[layout_of(folder)](folder, gamma_mhz_per_tesla=gamma_mhz_per_tesla)


def read_orientations(folder: Path | str, *, gamma_mhz_per_tesla: float = GAMMA_MHZ_PER_TESLA) -> list[Scan]:
    """The scans of the same head at other orientations to B0, which the layout of the release alone knows."""
    return rc2.read_orientations(folder, gamma_mhz_per_tesla=gamma_mhz_per_tesla) if layout_of(folder) == "rc2" else []


def read_mask_and_geometry(folder: Path | str) -> tuple[Tensor, Geometry, HeaderInfo]:
    """The brain mask (bool), the geometry, and the header that outputs take."""
    return _MASK[layout_of(folder)](folder)


def header_source(folder: Path | str) -> Path:
    """The file whose header a scan's outputs take."""
    return _HEADER[layout_of(folder)](folder)
