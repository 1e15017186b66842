"""From blind scores to rows: first under identifiers, then, when those are written, under the names that the forms tell."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qsmdl.challenge.form import Form, read_form
from qsmdl.challenge.judge import Judged, Refused
from qsmdl.challenge.plan import Plan
from qsmdl.challenge.protocol import Row
from qsmdl.challenge.ratings import TRUTH_NAME
from qsmdl.challenge.references import Reference
from qsmdl.errors import InputError
from qsmdl.io.files import write_json

BLIND_FILE, REFUSED_FILE, SUBMISSIONS_FILE = "blind.json", "refused.json", "submissions.json"


@dataclass(frozen=True)
class Joined:
    """Rows under the methods' names, the forms by identifier (None where there is none that can be used), and why some cannot be used."""

    rows: list[Row]
    forms: dict[str, Form | None]
    problems: list[str]


def blind_rows(judged: Sequence[Judged], plan: Plan, references: Mapping[str, Reference]) -> list[Row]:
    """One row per submission and scan, called by the identifier; the time is 0, as nobody has said it yet."""
    rows: list[Row] = []
    for submission in judged:
        for scan, metrics in submission.scores.items():
            row: Row = {
                "method": submission.identifier,
                "scan": scan,
                "metrics": dict(metrics),
                "seconds": 0.0,
                "peak_bytes": None,
                "seed": None,
                "stopped": "submitted",
                "dialect": plan.dialect,
                "convention": "release",
                "stage": plan.stage,
                "data": references[scan].data,
            }
            rows.append(row)
    return rows


def write_blind(out: Path | str, rows: Sequence[Row], refused: Sequence[Refused]) -> None:
    """Writes OUT/blind.json (rows by identifier) and OUT/refused.json (file and reason). Raises InputError where the disk refuses."""
    write_json(Path(out) / BLIND_FILE, list(rows), overwrite=True)
    write_json(Path(out) / REFUSED_FILE, [one._asdict() for one in refused], overwrite=True)


def _form_of(identifier: str, stage: int, folder: Path) -> Form:
    path = folder / f"{identifier}.json"
    form = read_form(path)
    if (form.identifier, form.stage) != (identifier, stage):
        raise InputError(f"{path} is the form of {form.identifier} in stage {form.stage}, not of {identifier} in stage {stage}. Correct it.")
    return form


def _read_forms(identifiers: Sequence[str], stage: int, folder: Path) -> tuple[dict[str, Form | None], list[str]]:
    forms: dict[str, Form | None] = dict.fromkeys(identifiers)
    problems = []
    for identifier in identifiers:
        try:
            forms[identifier] = _form_of(identifier, stage, folder)
        except InputError as error:
            problems.append(str(error))
    return forms, problems


def _names(forms: Mapping[str, Form | None]) -> dict[str, str]:
    """Acronyms; with the identifier where several submissions have one acronym, or it looks like an identifier or like the truth's name in ratings;
    identifiers where there is no form.
    """
    counts = Counter(form.acronym for form in forms.values() if form is not None)
    names = {}
    for identifier, form in forms.items():
        unique = form is not None and counts[form.acronym] == 1 and form.acronym not in (*forms, TRUTH_NAME)
        names[identifier] = identifier if form is None else (form.acronym if unique else f"{form.acronym} ({identifier})")
    return names


def _joined_row(row: Row, name: str, form: Form | None) -> Row:
    if form is None:
        return {**row, "stopped": "submitted, no form"}
    (seed, *more) = form.seeds or (None,)
    said: Row = {**row, "method": name, "seconds": form.runtime_s, "seed": None if more else seed, "kind": form.kind}
    # what a submitted network was trained on cannot be seen in its maps
    said["attested"] = False if form.kind == "deep learning" else None
    return said


def join_forms(rows: Sequence[Row], forms: Path | str | None, *, stage: int) -> Joined:
    """Blind rows with what the forms FORMS/IDENTIFIER.json say: name, type, time, seed. To be called when the scores are on the disk.

    A form that is missing or breaks a rule leaves its submission under the identifier and is told among the problems. Networks are not attested.
    Raises InputError: forms is no folder.
    """
    folder = None if forms is None else Path(forms)
    if folder is not None and not folder.is_dir():
        raise InputError(f"{folder} is not a folder. --forms names the folder with the forms, IDENTIFIER.json.")
    identifiers = list(dict.fromkeys(row["method"] for row in rows))
    read, problems = _read_forms(identifiers, stage, folder) if folder is not None else (dict.fromkeys(identifiers), [])
    names = _names(read)
    return Joined([_joined_row(row, names[row["method"]], read[row["method"]]) for row in rows], read, problems)


def write_submissions(out: Path | str, joined: Joined) -> None:
    """Writes OUT/submissions.json: every identifier with its form, or null. Raises InputError where the disk refuses."""
    content = {identifier: None if form is None else form.to_plain() for identifier, form in joined.forms.items()}
    write_json(Path(out) / SUBMISSIONS_FILE, content, overwrite=True)
