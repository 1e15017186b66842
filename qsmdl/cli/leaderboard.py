"""qsmdl leaderboard: tables, ranks and figures of any set of rows."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qsmdl.cli.progress import console, stage

if TYPE_CHECKING:
    from qsmdl.challenge.protocol import Row
    from qsmdl.report.gallery import Gallery
    from qsmdl.report.leaderboard import Leaderboard


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command line of `qsmdl leaderboard`."""
    parser = commands.add_parser(
        "leaderboard",
        help="ranks, tables and figures of any set of rows",
        description="Combines scores as the challenge does, ranks them and draws its figures. OUT gets leaderboard.json, .csv and .md, and figures/ "
        "(PNG and SVG). Figures that the rows have no data for are left out, with the reason.",
    )
    parser.add_argument("rows", type=Path, nargs="+", metavar="ROWS.json", help="of evaluate.py or qsmdl judge")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder to make")
    parser.add_argument("--dialect", help="take the rows of this dialect (needed where the rows mix several)")
    parser.add_argument("--convention", help="take the rows against this convention of the truth (needed where the rows mix several)")
    parser.add_argument("--forms", type=Path, nargs="+", default=[], metavar="FOLDER", help="forms ID.json, for rows called by identifiers")
    parser.add_argument("--ratings", type=Path, nargs="+", default=[], metavar="RATINGS.csv", help="visual ratings, as the rating page exports them")
    parser.add_argument("--published", action="store_true", help="show the challenge's published scores too, apart and never ranked with the rows")
    parser.add_argument("--maps", type=Path, nargs="+", default=[], metavar="FOLDER", help="maps SCAN_METHOD.nii.gz: draws those of the best five")
    parser.add_argument("--truth", type=Path, metavar="RELEASE", help="truths for --maps (default: those that the evaluation kept)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier leaderboard in OUT")


def _read(paths: Sequence[Path]) -> "list[Row]":
    """All rows. Raises InputError as `read_rows`, for files without rows, and where two files hold one row."""
    from qsmdl.challenge.protocol import basis_of
    from qsmdl.errors import InputError
    from qsmdl.report.table import read_rows

    rows: list[Row] = []
    sources: dict[tuple[object, ...], Path] = {}
    for path in paths:
        own = read_rows(path)
        if not own:
            raise InputError(f"{path} holds no rows: the list is empty. Run evaluate.py or qsmdl judge first, or leave the file out.")
        for row in own:
            key = (row["method"], row["seed"], row["scan"], *basis_of(row))
            if key in sources:
                both = f"{path} and {sources[key]} both hold" if sources[key] != path else f"{path} holds twice"
                raise InputError(
                    f"{both} the row of {row['method']} (seed {row['seed']}) on {row['scan']} ({basis_of(row)}). Pass each row once, or give the two "
                    "settings different names."
                )
            sources[key] = path
        rows += own
    return rows


def _make(arguments: argparse.Namespace) -> "Leaderboard":
    from qsmdl.challenge.joining import join_all_forms, join_ratings, read_all_ratings
    from qsmdl.challenge.published import published_scores
    from qsmdl.challenge.ranking import make_standings, select_rows, undeclared_data
    from qsmdl.report.leaderboard import Leaderboard

    rows = select_rows(_read(arguments.rows), dialect=arguments.dialect, convention=arguments.convention)
    rows, problems = join_all_forms(rows, arguments.forms)
    ratings = join_ratings(rows, read_all_ratings(arguments.ratings))
    standings = make_standings(rows, visual=ratings.visual)
    published = published_scores() if arguments.published else ()
    trusted = undeclared_data(rows)
    return Leaderboard(standings, published, ratings.raters, [*problems, *ratings.problems, *([trusted] if trusted else [])])


def _draw(board: "Leaderboard", folder: Path, arguments: argparse.Namespace) -> "Gallery":
    from qsmdl.report.best_maps import draw_best_maps
    from qsmdl.report.gallery import draw_figures, is_of_whole_stage

    gallery = draw_figures(board.standings, folder, published=board.published)
    if not arguments.maps:
        gallery.left_out.append(("best_maps", "The maps are needed: name their folder with --maps, and the release with --truth."))
        return gallery
    for standing in board.standings:
        if is_of_whole_stage(standing, board.standings):
            draw_best_maps(gallery, standing, arguments.maps, arguments.truth)
    return gallery


def _tell(board: "Leaderboard", gallery: "Gallery", out: Path) -> None:
    from rich.console import Console

    from qsmdl.report.table import print_leaderboard, print_published

    results = Console()
    for standing in board.standings:
        if standing.entries:
            print_leaderboard(standing, results)
        for name, reason in standing.left_out:
            console.print(f"  left out of {standing.title}: {name}: {reason}", highlight=False, markup=False)
    if board.published:
        print_published(board.published, results)
    for note in board.notes:
        console.print(f"  {note}", highlight=False, markup=False)
    for name, reason in gallery.left_out:
        console.print(f"  not drawn: {name}: {reason}", highlight=False, markup=False)
    console.print(f"{len(gallery.drawn)} figures and leaderboard.md, .csv, .json: {out}", highlight=False, markup=False)


def leaderboard(arguments: argparse.Namespace) -> None:
    """Read, join, rank, draw, write and print; the folder appears when everything is in it."""
    from qsmdl.errors import InputError
    from qsmdl.io.files import atomic_folder
    from qsmdl.report.best_maps import check_folders
    from qsmdl.report.leaderboard import CONTENTS, FIGURES, write_leaderboard

    if arguments.truth is not None and not arguments.maps:
        raise InputError(f"--truth {arguments.truth} is of no use without --maps, the folder with the maps to show. Add it, or leave --truth out.")
    check_folders(arguments.maps, arguments.truth)
    board = _make(arguments)
    with atomic_folder(arguments.output, arguments.overwrite, contents=CONTENTS) as folder:
        with stage("Drawing the figures"):
            gallery = _draw(board, folder / FIGURES, arguments)
        write_leaderboard(board, gallery, folder)
    _tell(board, gallery, arguments.output)
