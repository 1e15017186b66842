"""The mark that a folder holds evaluation data: volumes that methods are judged on, and that nothing may be trained on.

`challenge.evaluation_data` keeps the fingerprints that find copies of them where there is no mark.
"""

from pathlib import Path

from qsmdl.errors import InputError
from qsmdl.io.files import write_json

MARK_STEM = "EVALUATION_DATA"
MARK = f"{MARK_STEM}.json"


def write_mark(folder: Path | str, source: str, *, overwrite: bool = False) -> None:
    """Marks a folder, with all that lies in it, as evaluation data. source: where the data come from, in words."""
    rule = "Evaluation data: methods are judged on these volumes, so no network may be trained on them or on anything made from them."
    write_json(Path(folder) / MARK, {"rule": rule, "source": source}, overwrite=overwrite)


def find_mark(folder: Path | str) -> Path | None:
    """The mark that covers a folder: in it, in a folder above it, or in one below it; None where there is none."""
    folder = Path(folder).resolve()
    above = (place / MARK for place in (folder, *folder.parents))
    return next((path for path in (*above, *sorted(folder.rglob(MARK))) if path.is_file()), None)


def check_not_evaluation_data(folder: Path | str) -> None:
    """Raises InputError where a folder to train on, one above it or one below it is marked as evaluation data."""
    mark = find_mark(folder)
    if mark is not None:
        raise InputError(
            f"{folder} may not be trained on: {mark} says that {mark.parent} holds evaluation data. Train on other volumes; these are for judging."
        )
