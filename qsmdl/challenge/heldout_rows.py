"""Rows of a held-out study on disk: a file for each scan and method with what it was made from, so that no two settings are mixed."""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, cast

from torch import Tensor

from qsmdl import __version__
from qsmdl.challenge.baselines import FIELD_SETTINGS
from qsmdl.challenge.heldout import HeldOutHead
from qsmdl.challenge.maps import check_unchanged, describe, file_digest
from qsmdl.challenge.metrics import Scores
from qsmdl.challenge.protocol import Row
from qsmdl.challenge.regions import deep_grey_slope
from qsmdl.challenge.regression import fit_line
from qsmdl.challenge.rows import check_rows
from qsmdl.challenge.run import Case, Scoring, Solved, reconstruct, scored
from qsmdl.challenge.volumes import as_volumes
from qsmdl.errors import InputError
from qsmdl.io.files import read_json, write_json
from qsmdl.methods import Method
from qsmdl.poststeps import unrung
from qsmdl.scan import ChiMap, Truth

ROWS = "rows"
UNRUNG = "+unring"
"""What is added to a method's name for the very same map after the removal of ringing."""
_REMEDY = "choose another folder; --again NAME makes the rows of a method again"


class HeldOutRow(Row):
    """A row of a held-out study. phantom: its number; traits: `HeldOutHead.traits`; slopes: signed, of the map against the truth, "deep_grey" through
    the means of the six regions and "mask" over all voxels (1 is right, None undefined); code: `code.code_digest` of what made it, absent in rows
    of old.
    """

    phantom: int
    peak_snr: float
    traits: list[str]
    slopes: Scores
    code: NotRequired[str]


def base_of(name: str) -> str:
    """The method that a row's name stands for, ringing removed or not."""
    return name.removesuffix(UNRUNG)


def describe_with_files(method: Method) -> dict[str, Any]:
    """`maps.describe`, with the hash of every file that its settings name: the weights of an ensemble, too."""
    named = {key: value if isinstance(value, list | tuple) else [value] for key, value in method.settings.items()}
    paths = {key: [Path(value) for value in values if isinstance(value, str | Path)] for key, values in named.items()}
    hashes = {key: [file_digest(path) for path in found if path.is_file()] for key, found in paths.items()}
    return {**describe(method), "files_sha256": {key: found for key, found in hashes.items() if found}}


def slopes_of(chi_ppm: Tensor, truth: Truth) -> Scores:
    """The slopes of a map [x, y, z] in ppm, on the CPU, against its truth (`HeldOutRow`)."""
    volumes = as_volumes(chi_ppm.numpy(), truth.chi_ppm.numpy(), truth.mask.numpy(), truth.labels.numpy())
    inside = volumes.mask
    return {
        "deep_grey": deep_grey_slope(volumes.recon, volumes.truth, volumes.labels),
        "mask": fit_line(volumes.truth[inside], volumes.recon[inside])[0],
    }


@dataclass(frozen=True)
class HeldOutTask:
    """One method on one head at one peak SNR. described: `describe_with_files` of the method; seed: of everything random in it;
    code: `code.code_digest`, told in its rows. Rows of other code are not refused: not every change of it changes a map.
    """

    folder: Path
    head: HeldOutHead
    peak_snr: float
    method: Method
    described: Mapping[str, Any]
    seed: int
    code: str

    @property
    def scan(self) -> str:
        """The scan's name."""
        return self.head.at(self.peak_snr).name

    @property
    def path(self) -> Path:
        """Where its rows lie."""
        return self.folder / ROWS / f"{self.scan}_{self.method.name}.json"

    @property
    def state_path(self) -> Path:
        """Where an interrupted FINE leaves its state."""
        return self.folder / f"{self.scan}_{self.method.name}.fine_state.safetensors"

    @property
    def made_from(self) -> dict[str, Any]:
        """Everything that determines the rows, as JSON holds it."""
        drawn = self.head.drawn_as(self.peak_snr)
        told = {"scan": self.scan, **drawn, **FIELD_SETTINGS, **self.described, "seed": self.seed, "qsmdl_version": __version__}
        return cast(dict[str, Any], json.loads(json.dumps(told)))

    def find(self) -> list[HeldOutRow] | None:
        """The rows that an earlier call wrote, or None. Raises InputError where they were made from something else, or are not rows."""
        if not self.path.exists():
            return None
        note = read_json(self.path)
        if not isinstance(note, dict):
            raise InputError(f"{self.path} does not hold rows of a held-out study. Remove it, and they are made again.")
        check_unchanged(self.path, note.get("made_from"), self.made_from, remedy=_REMEDY)
        return cast(list[HeldOutRow], check_rows(note.get("rows"), str(self.path)))

    def keep(self, rows: list[HeldOutRow]) -> None:
        """Write its rows, in the place of those that are there."""
        write_json(self.path, {"made_from": self.made_from, "rows": rows}, overwrite=True)


def run_task(
    task: HeldOutTask,
    case: Case,
    truth: Truth,
    *,
    attested: bool | None = None,
    on_step: Callable[[int, float], None] | None = None,
    solved: dict[str, Solved] | None = None,
) -> list[HeldOutRow]:
    """The rows of a task: the method's map scored, and the very same map without ringing, unless the method removes it itself. Writes nothing.

    case: the scan, without truth, on the device that the method runs on. solved: maps of this case by `Method.solve_key`: what is there is not solved
    for again, and a map without steps is put there.
    """
    key, kept = task.method.solve_key, {} if solved is None else solved
    chi, row = reconstruct(task.method, case, seed=task.seed, on_step=on_step, state_path=task.state_path, solved=kept.get(key) if key else None)
    if key and not (task.method.steps.unring or task.method.steps.large_scales):
        kept[key] = chi, row
    row["attested"] = attested
    rows = [_told(task, row, chi, truth)]
    if not task.method.steps.unring:
        begun = time.perf_counter()
        smooth = unrung(chi)
        seconds = row["seconds"] + time.perf_counter() - begun
        rows.append(_told(task, cast(Row, {**row, "method": f"{row['method']}{UNRUNG}", "seconds": seconds}), smooth, truth))
    return rows


def _told(task: HeldOutTask, row: Row, chi: ChiMap, truth: Truth) -> HeldOutRow:
    on_cpu = dataclasses.replace(chi, chi_ppm=chi.chi_ppm.cpu(), mask=chi.mask.cpu())
    told = scored(row, on_cpu.chi_ppm, truth, Scoring())
    about = {"phantom": task.head.number, "peak_snr": task.peak_snr, "traits": list(task.head.traits), "code": task.code}
    return cast(HeldOutRow, {**told, **about, "slopes": slopes_of(on_cpu.chi_ppm, truth)})
