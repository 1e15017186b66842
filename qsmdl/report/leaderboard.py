"""A leaderboard as files: JSON for programs, CSV for spreadsheets, Markdown for people, with its figures."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsmdl import __version__
from qsmdl.challenge.metrics import METRICS
from qsmdl.challenge.published import Published
from qsmdl.challenge.ranking import KNOWN_METRICS, Entry, Standing
from qsmdl.challenge.ratings import Correlations
from qsmdl.io.files import write_json, write_text
from qsmdl.report.gallery import Drawn, Gallery
from qsmdl.report.leaderboard_text import markdown

NAME = "leaderboard"
FIGURES = "figures"
CONTENTS = (NAME, FIGURES)
"""What the folder of a leaderboard holds, without suffixes."""
OWN_ROWS = "these rows"
_FORMULA_STARTS = ("=", "+", "-", "@")


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """Standings, the published scores that stand beside them (empty where not wanted), how far raters agree (None without ratings), and notes."""

    standings: Sequence[Standing]
    published: Sequence[Published] = ()
    raters: Correlations | None = None
    notes: Sequence[str] = ()


def _plain_entry(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "method": entry.method,
        "seed": entry.seed,
        "kind": entry.kind,
        "attested": entry.attested,
        "metrics": entry.metrics,
        "ranks": entry.ranks,
        "n_top_five": entry.n_top_five,
        "mean_visual": entry.visual,
        "seconds": entry.seconds,
        "by_scan": entry.by_scan,
    }


def _plain_standing(standing: Standing) -> dict[str, Any]:
    return {
        "title": standing.title,
        "stage": standing.stage,
        "snr_level": standing.snr_level,
        "dialect": standing.dialect,
        "convention": standing.convention,
        "scans": list(standing.scans),
        "categories": {
            "lowest_nrmse": [entry.name for entry in standing.lowest_nrmse()],
            "robustness": [entry.name for entry in standing.most_robust()],
        },
        "entries": [_plain_entry(entry) for entry in standing.entries],
        "left_out": [{"name": name, "reason": reason} for name, reason in standing.left_out],
    }


def _plain_published(row: Published) -> dict[str, Any]:
    return {
        "stage": row.stage,
        "identifier": row.identifier,
        "acronym": row.acronym,
        "kind": row.kind,
        "metrics": row.metrics,
        "mean_visual": row.mean_visual,
        "n_top_five": row.n_top_five,
        "origin": row.origin,
    }


def _plain_raters(raters: Correlations | None) -> dict[str, Any] | None:
    if raters is None:
        return None
    return {"raters": list(raters.raters), "pearson": [list(r) for r in raters.matrix], "n_shared": [list(r) for r in raters.n_shared]}


def to_plain(board: Leaderboard, gallery: Gallery) -> dict[str, Any]:
    """The content of leaderboard.json; undefined values are null, ranks count from 1."""

    def figure(drawn: Drawn) -> dict[str, Any]:
        return {"name": drawn.name, "caption": drawn.caption, "files": [f"{FIGURES}/{path.name}" for path in drawn.paths]}

    return {
        "qsmdl_version": __version__,
        "units": {key: metric.unit for key, metric in KNOWN_METRICS.items()},
        "top_five_counts": list(METRICS),
        "standings": [_plain_standing(standing) for standing in board.standings],
        "published": [_plain_published(row) for row in board.published],
        "rater_correlations": _plain_raters(board.raters),
        "figures": [figure(drawn) for drawn in gallery.drawn],
        "figures_left_out": [{"name": name, "reason": reason} for name, reason in gallery.left_out],
        "notes": list(board.notes),
    }


def _cell(text: str) -> str:
    """Spreadsheets run what begins like a formula; an apostrophe makes it text."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _entry_line(standing: Standing, entry: Entry, keys: Sequence[str]) -> list[Any]:
    basis = [_cell(text) for text in (standing.dialect, standing.convention, " ".join(standing.scans))]
    told = [standing.stage, standing.snr_level, *basis, OWN_ROWS]
    who = [_cell(entry.name), entry.kind, entry.attested]
    return [
        *told, *who, *(entry.metrics.get(key) for key in keys), *(entry.ranks.get(key) for key in keys), entry.n_top_five, entry.visual, entry.seconds
    ]  # fmt: skip


def _published_line(row: Published, keys: Sequence[str]) -> list[Any]:
    told = [row.stage, None, "rc2", "release", "", row.origin]
    return [*told, row.name, row.kind, None, *(row.metrics.get(key) for key in keys), *(None for _ in keys), row.n_top_five, row.mean_visual, None]


def to_csv(board: Leaderboard) -> str:
    """One line per standing and algorithm: metrics at full precision, their ranks, top-five count; published scores last, without ranks."""
    entries = [entry for standing in board.standings for entry in standing.entries]
    keys = [key for key in KNOWN_METRICS if key in METRICS or any(key in entry.metrics for entry in entries)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["stage", "snr_level", "dialect", "convention", "scans", "origin", "algorithm", "kind", "attested"]
    writer.writerow([*head, *keys, *(f"rank_{key}" for key in keys), "n_top_five", "mean_visual", "seconds"])
    writer.writerows(_entry_line(standing, entry, keys) for standing in board.standings for entry in standing.entries)
    writer.writerows(_published_line(row, keys) for row in board.published)
    return text.getvalue()


def write_leaderboard(board: Leaderboard, gallery: Gallery, folder: Path) -> None:
    """Writes leaderboard.json, .csv and .md into a folder whose figures are drawn. Raises InputError: files that exist or cannot be written."""
    write_json(folder / f"{NAME}.json", to_plain(board, gallery))
    write_text(folder / f"{NAME}.csv", to_csv(board))
    write_text(folder / f"{NAME}.md", markdown(board.standings, board.published, board.raters, board.notes, gallery, figures_folder=FIGURES))
