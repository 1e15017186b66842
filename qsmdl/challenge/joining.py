"""What is known of submissions apart from their scores, joined to rows: the forms, and the visual ratings."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qsmdl.challenge.form import IDENTIFIER_LENGTH, read_form
from qsmdl.challenge.protocol import Row, stage_of
from qsmdl.challenge.ratings import TRUTH_NAME, Correlations, Rating, check_unique, mean_visual, rater_correlations, read_ratings
from qsmdl.challenge.verdict import join_forms
from qsmdl.errors import InputError

_IDENTIFIER = re.compile(rf"[A-Za-z0-9]{{{IDENTIFIER_LENGTH}}}")


def join_all_forms(rows: Sequence[Row], folders: Sequence[Path]) -> tuple[list[Row], list[str]]:
    """Rows whose method is the identifier of a form IDENTIFIER.json of their stage in one of the folders, with what the form says
    (`verdict.join_forms`); other rows as they are. Also returns what was wrong, in words.

    Raises InputError: a folder that is none, or not one form for the rows in any of them.
    """
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise InputError(f"{missing[0]} is not a folder. --forms names the folder with the forms, IDENTIFIER.json.")
    joined, problems, used = list(rows), [], set[int]()
    for folder in folders:
        for stage in (1, 2):
            chosen = [i for i, row in enumerate(joined) if i not in used and stage_of(row) == stage and _has_form(row["method"], folder, stage)]
            result = join_forms([joined[i] for i in chosen], folder, stage=stage)
            used.update(chosen)
            problems += result.problems
            for i, row in zip(chosen, result.rows, strict=True):
                joined[i] = row
    if folders and not used:
        raise InputError(f"{', '.join(map(str, folders))} hold no form for any row. Forms are named after the identifiers: {rows[0]['method']}.json.")
    without = list(dict.fromkeys(row["method"] for i, row in enumerate(joined) if i not in used and _IDENTIFIER.fullmatch(row["method"])))
    if folders and without:
        problems.append(f"no form of the stage of {', '.join(without)}: they keep their identifiers")
    return joined, problems


def _has_form(method: str, folder: Path, stage: int) -> bool:
    """Whether the folder has the form of a submission for a stage; one that cannot be read counts, so that joining tells what is wrong with it."""
    path = folder / f"{method}.json"
    if _IDENTIFIER.fullmatch(method) is None or not path.is_file():
        return False
    try:
        return read_form(path).stage == stage
    except InputError:
        return True


@dataclass(frozen=True, slots=True)
class JoinedRatings:
    """used: the ratings of the rows' methods (and of the truth) on the rows' scans; visual: stage -> method -> mean visual score; raters: how far
    raters agree in those used; problems: ratings that could not be used, in words.
    """

    used: list[Rating]
    visual: dict[int | None, dict[str, float]]
    raters: Correlations | None
    problems: list[str] = field(default_factory=list)


def read_all_ratings(paths: Iterable[Path]) -> list[Rating]:
    """The ratings of several files. Raises InputError as `ratings.read_ratings`, and where one rater rated an item in two of them."""
    paths = list(paths)
    ratings = [rating for path in paths for rating in read_ratings(path)]
    check_unique(ratings, ", ".join(str(path) for path in paths))
    return ratings


def join_ratings(rows: Sequence[Row], ratings: Sequence[Rating]) -> JoinedRatings:
    """The mean visual score of each method in each stage, from the ratings of that stage's scans; the truth among the ratings is no method."""
    if not ratings:
        return JoinedRatings([], {}, None)
    methods, every_scan = {row["method"] for row in rows}, {row["scan"] for row in rows}
    used = [r for r in ratings if r.scan in every_scan and r.submission in {*methods, TRUTH_NAME}]
    visual: dict[int | None, dict[str, float]] = {}
    for stage in dict.fromkeys(stage_of(row) for row in rows):
        scans = {row["scan"] for row in rows if stage_of(row) == stage}
        visual[stage] = {name: value for name, value in mean_visual(r for r in used if r.scan in scans).items() if name in methods}
    problems = []
    strangers = sorted({r.submission for r in ratings} - methods - {TRUTH_NAME})
    if strangers:
        problems.append(f"ratings of {', '.join(strangers)} were not used: no row has that name")
    other = sorted({r.scan for r in ratings} - every_scan)
    if other:
        problems.append(f"ratings on {', '.join(other)} were not used: no row is on that scan")
    return JoinedRatings(used, visual, rater_correlations(used), problems)
