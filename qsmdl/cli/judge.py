"""qsmdl judge: a folder of submissions, scored blindly."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from qsmdl.cli.progress import console, stage
from qsmdl.errors import InputError

if TYPE_CHECKING:
    from qsmdl.challenge.judge import Outcome, Refused
    from qsmdl.challenge.plan import Plan
    from qsmdl.challenge.protocol import Row


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command line of `qsmdl judge`."""
    parser = commands.add_parser(
        "judge",
        help="score a folder of submissions blindly",
        description="Every archive is scored or refused on its own; the forms are opened when all scores are written. The same command goes on after "
        "an interruption. OUT gets rows.json, rows.csv, blind.json, refused.json, submissions.json and scores/.",
    )
    parser.add_argument("archives", type=Path, metavar="FOLDER", help="the submissions, ID.zip")
    parser.add_argument("--truth", type=Path, required=True, metavar="RELEASE", help="a release with its truths, or a folder of truths in its layout")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder of the results")
    parser.add_argument("--forms", type=Path, metavar="FOLDER", help="the forms, ID.json (default: rows keep the identifiers)")
    parser.add_argument("--stage", type=int, choices=(1, 2), help="of the challenge (default: that of the truths)")
    dialects = ("rc2", "qsm-ci", "corrected")
    parser.add_argument("--dialect", choices=dialects, default="rc2", help="whose definitions (default rc2: the challenge's released code)")
    parser.add_argument("--additional", action="store_true", help="the additional metrics too, which take several times as long")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default 1), one core and about 1 GB each")


def _tell(outcome: "Outcome", n_done: int, n_all: int) -> None:
    """Identifiers and progress only: who watches must not learn scores by name, nor is there anything to learn yet."""
    from qsmdl.challenge.judge import Judged

    word = ("scored before" if outcome.resumed else "scored") if isinstance(outcome, Judged) else "refused"
    console.print(f"  {n_done}/{n_all} {ascii(outcome.file)[1:-1]}: {word}", highlight=False, markup=False)


def _tell_refused(refused: "list[Refused]") -> None:
    for one in refused:
        console.print(f"  refused {ascii(one.file)[1:-1]}: {one.reason}", highlight=False, markup=False)


def _join_and_write(rows: "list[Row]", plan: "Plan", arguments: argparse.Namespace) -> "list[Row]":
    """From here on names are known; every score is on the disk."""
    from qsmdl.challenge.verdict import join_forms, write_submissions
    from qsmdl.report.table import write_csv, write_rows

    out: Path = arguments.output
    joined = join_forms(rows, arguments.forms, stage=plan.stage)
    for problem in joined.problems:
        console.print(f"  without form: {problem}", highlight=False, markup=False)
    write_submissions(out, joined)
    write_rows(joined.rows, out / "rows.json", overwrite=True)
    write_csv(joined.rows, out / "rows.csv", overwrite=True)
    return joined.rows


def _print_standings(rows: "list[Row]") -> None:
    from qsmdl.challenge.ranking import make_standings
    from qsmdl.report.table import print_leaderboard

    for standing in make_standings(rows):
        print_leaderboard(standing)


def judge_folder(arguments: argparse.Namespace) -> None:
    """Score, write, join the forms, print the leaderboard."""
    from qsmdl.challenge.judge import find_archives, judge
    from qsmdl.challenge.plan import make_plan
    from qsmdl.challenge.verdict import blind_rows, write_blind

    out: Path = arguments.output
    if arguments.forms is not None and not arguments.forms.is_dir():
        raise InputError(f"{arguments.forms} is not a folder. --forms names the folder with the forms, IDENTIFIER.json.")
    archives = find_archives(arguments.archives)
    with stage("Reading the truths"):
        plan, references = make_plan(arguments.truth, out, stage=arguments.stage, dialect=arguments.dialect, additional=arguments.additional)
    with stage(f"Scoring {len(archives)} submissions of stage {plan.stage} on {', '.join(plan.folders)}"):
        judged, refused = judge(archives, plan, references, jobs=arguments.jobs, on_outcome=_tell)
    rows = blind_rows(judged, plan, references)
    write_blind(out, rows, refused)
    _tell_refused(refused)
    if not judged:
        raise InputError(f"None of the {len(archives)} submissions could be scored; {out / 'refused.json'} tells why.")
    _print_standings(_join_and_write(rows, plan, arguments))
    console.print(f"{len(judged)} scored, {len(refused)} refused. Rows: {out / 'rows.json'}", highlight=False, markup=False)
    console.print(f"Figures and more: qsmdl leaderboard {out / 'rows.json'} -o {out / 'leaderboard'}", highlight=False, markup=False)
