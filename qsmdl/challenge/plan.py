"""What all submissions of a judging are scored with, and where their scores are kept."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsmdl import __version__
from qsmdl.challenge.references import Reference, find_references, load_references

SCORES_FOLDER = "scores"


@dataclass(frozen=True, slots=True)
class Plan:
    """How all submissions are scored.

    folders: scan -> the folder with its truth; fingerprint: of those truths; stage: 1 or 2; dialect: of the metrics; additional: whether the
    additional metrics are computed too; scores: the folder where each submission's scores are written.
    """

    folders: Mapping[str, Path]
    fingerprint: str
    stage: int
    dialect: str
    additional: bool
    scores: Path

    def identity(self, sha256: str) -> dict[str, Any]:
        """What decides the scores of an archive: the same identity, the same scores."""
        return {
            "archive_sha256": sha256,
            "truth": self.fingerprint,
            "stage": self.stage,
            "dialect": self.dialect,
            "additional": self.additional,
            "qsmdl_version": __version__,
        }

    def path(self, sha256: str) -> Path:
        """Where the scores of an archive are written."""
        text = json.dumps(self.identity(sha256), sort_keys=True)
        return self.scores / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def fingerprint_of(references: Mapping[str, Reference]) -> str:
    """A hash of all truths, masks and labels of a judging, and of which scan each belongs to."""
    return hashlib.sha256("".join(f"{scan} {references[scan].fingerprint} " for scan in sorted(references)).encode()).hexdigest()


def make_plan(
    truth: Path | str, out: Path | str, *, stage: int | None = None, dialect: str = "rc2", additional: bool = False
) -> tuple[Plan, dict[str, Reference]]:
    """The plan of a judging and the truths, after every check that does not concern a submission.

    truth: a release, or a folder with truths in its layout; out: the folder of the results; the rest: as `Plan`, stage None takes that of the truths.
    Raises InputError as `references.find_references` and `load_references`, and where the truths themselves cannot be scored.
    """
    stage, folders = find_references(truth, stage)
    references = load_references(folders)
    for reference in references.values():
        reference.score(reference.chi_ppm, dialect=dialect, additional=False)
    return Plan(folders, fingerprint_of(references), stage, dialect, additional, Path(out) / SCORES_FOLDER), references
