"""Figures of a folder as data URIs, for pages that load nothing."""

import base64
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qsmdl.challenge.protocol import Row, basis_of
from qsmdl.challenge.ranking import VisualScores, make_standings, select_rows
from qsmdl.errors import InputError
from qsmdl.report.figures import montage
from qsmdl.report.gallery import draw_figures
from qsmdl.report.run_folder import ScanMaps

_PNG = b"\x89PNG\r\n\x1a\n"
_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}
_FOLDERS = (".", "figures")
_MAX_BYTES = 25 * 2**20


@dataclass(frozen=True, slots=True)
class Picture:
    """name: of the file, without suffix; uri: the whole picture as a data URI; scan: of a montage, else None; text: what it shows, if known."""

    name: str
    uri: str
    scan: str | None = None
    text: str = ""

    @property
    def caption(self) -> str:
        """What it shows, or else the name in words: montage_Sim1 is "Montage Sim1"."""
        words = self.name.replace("_", " ").strip()
        return self.text or words[:1].upper() + words[1:]


@dataclass(frozen=True, slots=True)
class OwnFigures:
    """What was drawn of an evaluation's rows, and (name, reason) of what was not."""

    pictures: list[Picture]
    left_out: list[tuple[str, str]]


def _check(path: Path, content: bytes) -> None:
    if len(content) > _MAX_BYTES:
        raise InputError(f"{path} has {len(content) / 2**20:.0f} MiB; pictures of a report may have {_MAX_BYTES // 2**20}. Make it smaller.")
    is_png = path.suffix.lower() == ".png"
    if (is_png and not content.startswith(_PNG)) or (not is_png and b"<svg" not in content[:4096]):
        raise InputError(f"{path} is not a {path.suffix[1:].upper()} picture, whatever its name says. Remove it or write it again.")


def _picture(path: Path, scan: str | None = None, text: str = "") -> Picture:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} could not be read: {error}.") from error
    _check(path, content)
    return Picture(path.stem, f"data:{_TYPES[path.suffix.lower()]};base64,{base64.b64encode(content).decode('ascii')}", scan, text)


def find_pictures(folder: Path, scans: list[str]) -> list[Picture]:
    """The PNG and SVG files of a run's folder and of its sub-folder figures; of two forms of one picture the smaller file. Montages come first.

    Raises InputError naming the file: unreadable, too large, not what its suffix says.
    """
    smallest: dict[str, Path] = {}
    for path in sorted(p for name in _FOLDERS for p in (folder / name).glob("*") if p.suffix.lower() in _TYPES and p.is_file()):
        if path.stem not in smallest or path.stat().st_size < smallest[path.stem].stat().st_size:
            smallest[path.stem] = path
    montages = {f"montage_{scan}": scan for scan in scans}
    pictures = [_picture(path, montages.get(stem)) for stem, path in smallest.items()]
    return sorted(pictures, key=lambda picture: (picture.scan is None, picture.name))


def draw_own_figures(rows: Sequence[Row], visual: VisualScores) -> OwnFigures:
    """The figures of a leaderboard, of the rows of one evaluation: for each dialect and convention of the truth, as these do not compare.

    visual: mean visual scores (`challenge.ranking`). Of PNG and SVG the smaller file is taken.
    """
    bases = list(dict.fromkeys((basis_of(row).dialect, basis_of(row).convention) for row in rows))
    own = OwnFigures([], [])
    for dialect, convention in bases:
        which = f" Dialect {dialect}, truth: {convention}." if len(bases) > 1 else ""
        try:
            standings = make_standings(select_rows(rows, dialect=dialect, convention=convention), visual=visual)
        except InputError as error:
            own.left_out.append((f"figures of the metrics{which}", str(error)))
            continue
        with tempfile.TemporaryDirectory() as folder:
            gallery = draw_figures(standings, Path(folder))
            for drawn in gallery.drawn:
                smaller = min(drawn.paths, key=lambda path: path.stat().st_size)
                own.pictures.append(_picture(smaller, text=drawn.caption + which))
        own.left_out.extend(gallery.left_out)
    return own


def make_montage(scan: ScanMaps) -> Picture:
    """The montage of a scan whose folder has none: what stands in for the panes where there is no WebGL2."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"montage_{scan.name}.png"
        truth = None if scan.truth is None else scan.truth.chi_ppm.numpy()
        maps = {method: scan.read(method) for method in scan.paths}
        geometry = scan.geometry
        montage(path, maps, mask=scan.mask, voxel_size_mm=geometry.voxel_size_mm, truth=truth, affine=geometry.affine)
        return _picture(path, scan.name)
