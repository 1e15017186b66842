"""Where `qsmdl simulate` writes a scan, in each layout that was asked for."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.io.bids_writing import write_bids
from qsmdl.io.layouts import LAYOUTS, Layout
from qsmdl.io.qsm_ci import write_qsm_ci
from qsmdl.io.rc2 import TRUTH_FOLDER, write_release, write_truth_apart
from qsmdl.phantom.scanning.acquire import Acquisition
from qsmdl.scan import Scan, Truth


@dataclass(frozen=True, eq=False)
class Product:
    """A simulated scan and what is told of it. truth: None for blind data; conventions: the truth in other conventions; orientations: scans of the
    head at others; local_field_ppm [x, y, z]: the truth's field without noise, for QSM-CI; made_by: recipe.json, with recipe_digest and seed;
    evaluation_data: where data that nothing may be trained on come from.
    """

    scan: Scan
    truth: Truth | None
    acquisition: Acquisition
    made_by: Mapping[str, Any]
    conventions: Mapping[str, Truth] = field(default_factory=dict)
    orientations: Sequence[Scan] = ()
    local_field_ppm: Tensor | None = None
    evaluation_data: str | None = None


def parse_layouts(text: str) -> tuple[Layout, ...]:
    """The layouts of a list such as "rc2,bids". Raises InputError for an unknown one and for one that is named twice."""
    words = text.split(",")
    found = tuple(layout for word in words for layout in LAYOUTS if layout == word.strip())
    if len(found) < len(words) or len(set(found)) < len(found):
        raise InputError(f"--layout is {text!r}; it must be one or more of {', '.join(LAYOUTS)}, each once, with commas between.")
    return found


def truth_name(scan: str) -> str:
    """The folder of a truth that lies apart from its scans: `Sim1GT` for Sim1, Sim1Snr1 and Sim1Snr2."""
    return re.sub(r"Snr\d+$", "", scan) + TRUTH_FOLDER


@dataclass(frozen=True)
class Destination:
    """A folder and the layouts that are written there: into it where it is one, else into its sub-folders rc2, bids and qsm-ci.

    apart: in the challenge's layout, the truth lies beside the scans (`Sim1GT`) and not in them (`Sim1/GT`).
    """

    out: Path
    layouts: tuple[Layout, ...] = ("rc2",)
    apart: bool = False
    overwrite: bool = False

    def root(self, layout: Layout) -> Path:
        """The folder of a layout."""
        return self.out if len(self.layouts) == 1 else self.out / layout

    def folder(self, layout: Layout, name: str) -> Path:
        """The folder of a scan."""
        return self.root(layout) / (f"sub-{name}" if layout == "bids" else name)

    def check_free(self, names: Sequence[str], *, with_truth: bool) -> None:
        """Raises InputError where a folder that is to be written exists and is not to be replaced; before anything is computed."""
        targets = [self.folder(layout, name) for layout in self.layouts for name in names]
        if self.apart and with_truth and "rc2" in self.layouts:
            targets += [self.root("rc2") / name for name in dict.fromkeys(map(truth_name, names))]
        existing = next((path for path in targets if path.exists()), None)
        if existing is not None and not self.overwrite:
            raise InputError(f"{existing} exists. Choose another folder, or pass --overwrite.")

    def write(self, product: Product, *, shared_truth_written: bool = False) -> list[Path]:
        """Writes a scan in every layout; returns its folders. shared_truth_written: the truth that lies apart is there, from another scan."""
        return [self._write(layout, product, shared_truth_written) for layout in self.layouts]

    def _write(self, layout: Layout, product: Product, shared_truth_written: bool) -> Path:
        folder = self.folder(layout, product.scan.name)
        marks: dict[str, Any] = {"evaluation_data": product.evaluation_data, "overwrite": self.overwrite}
        common: dict[str, Any] = {"recipe": product.made_by, **marks}
        scan, truth = product.scan, product.truth
        if layout == "bids":
            protocol = product.acquisition
            times: dict[str, Any] = {"repetition_time_s": protocol.repetition_time_s, "flip_angle_deg": protocol.flip_angle_deg}
            return write_bids(self.root(layout), scan, truth, **times, **common)
        if layout == "qsm-ci":
            write_qsm_ci(folder, scan, truth, local_field_ppm=product.local_field_ppm, **common)
            return folder
        inside = None if self.apart else truth
        conventions = {} if self.apart else product.conventions
        write_release(folder, scan, inside, conventions=conventions, orientations=product.orientations, **common)
        if self.apart and truth is not None and not shared_truth_written:
            write_truth_apart(folder.with_name(truth_name(scan.name)), truth, conventions=product.conventions, **marks)
        return folder
