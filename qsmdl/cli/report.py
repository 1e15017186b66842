"""qsmdl report: an evaluation as one HTML page, in which maps can be rated blind too; and a page for that alone."""

import argparse
from pathlib import Path

from qsmdl.cli.progress import console, stage
from qsmdl.errors import InputError


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command line of `qsmdl report`."""
    parser = commands.add_parser(
        "report",
        help="one HTML page with table, figures and linked volume panes; or a page for blind rating",
        description="Makes a page of an evaluation that opens from disk without server or network. With --with-rating it opens on a start screen: "
        "rate the maps blind, or see the results. With --rating it makes a page for raters alone, which holds no names and no numbers. Both write "
        "PAGE.key.json beside the page, which resolves the codes of the ratings.",
    )
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER", help="what evaluate.py wrote: rows.json, maps, montages")
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"), metavar="PAGE.html", help="(default report.html)")
    parser.add_argument("--truth", type=Path, metavar="RELEASE", help="folder with the truths (default: those that the evaluation kept)")
    parser.add_argument("--with-rating", action="store_true", help="a report in which maps can be rated blind before the results are opened")
    parser.add_argument("--rating", action="store_true", help="instead of the report a page for raters alone, without the results")
    parser.add_argument("--scans", nargs="+", default=[], metavar="SCAN", help="show (and rate) the maps of these scans alone; the table has all")
    parser.add_argument("--ratings", type=Path, nargs="+", default=[], metavar="RATINGS.csv", help="ratings to show, as the rating page exports them")
    parser.add_argument("--key", type=Path, metavar="KEY.json", help="resolves the codes in --ratings (default: the key beside each file)")
    parser.add_argument("--without-maps", action="store_true", help="table and figures alone")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing page")


def report(arguments: argparse.Namespace) -> None:
    """Run `qsmdl report`. Raises InputError where options contradict each other, and as the functions that write the pages."""
    if arguments.rating and (arguments.ratings or arguments.without_maps or arguments.with_rating):
        raise InputError("--rating makes a page to rate on; it goes with none of --ratings, --without-maps and --with-rating. Make two pages.")
    if arguments.without_maps and (arguments.with_rating or arguments.scans):
        raise InputError("--without-maps leaves out the maps, which --with-rating and --scans are about. Leave one of the two out.")
    if arguments.key is not None and not arguments.ratings:
        raise InputError("--key resolves the codes of --ratings, but no ratings are given. Add --ratings.")
    if arguments.rating:
        _write_rating_page(arguments)
    else:
        _write_report(arguments)


def _write_rating_page(arguments: argparse.Namespace) -> None:
    from qsmdl.report.rating_page import write_rating_page

    with stage(f"Making the rating page of {arguments.run}"):
        written = write_rating_page(
            arguments.output, arguments.run, release=arguments.truth, scans=arguments.scans, overwrite=arguments.overwrite
        )
    console.print(f"Page for the raters: {written.path} ({written.n_bytes / 1e6:.1f} MB). Key, not for the raters: {written.key_path}")


def _write_report(arguments: argparse.Namespace) -> None:
    from qsmdl.challenge.ratings import check_unique, read_ratings
    from qsmdl.report.page import LARGEST_BYTES, write_report

    ratings = [rating for path in arguments.ratings for rating in read_ratings(path, key=arguments.key)]
    check_unique(ratings, ", ".join(str(path) for path in arguments.ratings))
    with stage(f"Making the report of {arguments.run}"):
        written = write_report(
            arguments.output,
            arguments.run,
            release=arguments.truth,
            ratings=ratings,
            scans=arguments.scans,
            with_maps=not arguments.without_maps,
            with_rating=arguments.with_rating,
            overwrite=arguments.overwrite,
        )
    console.print(f"Report: {written.path} ({written.n_bytes / 1e6:.1f} MB)")
    if written.key_path is not None:
        console.print(f"Key to the codes of its ratings, not for the raters: {written.key_path}")
    if written.n_bytes > LARGEST_BYTES:
        console.print(f"  That is more than {LARGEST_BYTES // 10**6} MB, which browsers open slowly: show the maps of fewer scans with --scans.")
