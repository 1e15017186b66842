"""Visual ratings of maps: what raters gave, means over raters, and how far raters agree.

Source: QSM Challenge 2.0 Organization Committee, Magn Reson Med 2021;86:1241-1255: streaking, unnaturalness and noise are rated from 0 (best) to 3,
all scans of a stage together, of which the worst counts; then discrepancies are marked on the difference map (0 or 1). Ratings are averaged over
raters. The truth is rated as if it were a submission.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qsmdl.challenge.protocol import stage_of_scan
from qsmdl.errors import InputError
from qsmdl.io.files import read_json
from qsmdl.validation import did_you_mean

SCALES = {"streaking": 3, "unnaturalness": 3, "noise": 3}
"""Scale -> its worst value; 0 is the best."""
DISCREPANCIES = {
    "discrepancy_tissue": "white and grey matter",
    "discrepancy_deep_grey_matter": "deep grey matter",
    "discrepancy_calcification": "calcification",
    "discrepancy_veins": "veins",
}
"""Category -> where to look on the difference map; rated 0 (none) or 1."""
COLUMNS = ("rater", "submission", "category", "scan", "value")
TRUTH_NAME = "truth"
"""How the truth is called among the submissions once the codes are resolved."""
BLIND_PREFIX = "blind-"
KEY_SUFFIX = ".key.json"
_MAX_BYTES = 20 * 2**20
_MIN_SHARED = 3


@dataclass(frozen=True, slots=True)
class Rating:
    """What one rater gave one submission on one scan. category: one of `SCALES` (value 0 to 3) or `DISCREPANCIES` (0 or 1)."""

    rater: str
    submission: str
    category: str
    scan: str
    value: int


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path} has {path.stat().st_size / 2**20:.0f} MiB; ratings are a small CSV file. Name the file that the page exported.")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} could not be read as text: {error}. Name the CSV file that the rating page exported.") from error


def _rating(row: Mapping[str, Any], where: str) -> Rating:
    rater, submission, category, scan, text = (row.get(name) for name in COLUMNS)
    known = {**SCALES, **dict.fromkeys(DISCREPANCIES, 1)}
    if not rater or not submission or not scan:
        raise InputError(f"{where} lacks the rater, the submission or the scan. Every line needs {', '.join(COLUMNS)}.")
    if category not in known:
        guess = did_you_mean(str(category), known) or ";"
        raise InputError(f"{where} has the category {category!r}{guess} known are {', '.join(known)}. Correct the line.")
    if text not in [str(n) for n in range(known[category] + 1)]:
        raise InputError(f"{where} has the value {text!r}, but {category} goes from 0 to {known[category]} in whole numbers. Correct the line.")
    return Rating(rater, submission, category, scan, int(text))


def _parse(path: Path) -> list[Rating]:
    reader = csv.DictReader(io.StringIO(_read_text(path), newline=""), strict=True)
    try:
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise InputError(f"{path} has no column {missing[0]}; ratings have the columns {', '.join(COLUMNS)}. Name the file the page exported.")
        ratings = [_rating(row, f"{path}, line {reader.line_num}") for row in reader]
    except csv.Error as error:
        raise InputError(f"{path} is not a valid CSV file: {error}. Export the ratings again.") from error
    if not ratings:
        raise InputError(f"{path} holds no ratings. Export the page again after rating.")
    return ratings


def read_key(path: Path | str) -> dict[str, str]:
    """The file that tells which submission a blind code stands for (`qsmdl report --rating` writes it): code -> name.

    Raises InputError naming the file: missing, not JSON, not a key.
    """
    content = read_json(path)
    codes = content.get("codes") if isinstance(content, dict) else None
    if not isinstance(codes, dict) or not codes or not all(isinstance(name, str) and name for name in codes.values()):
        raise InputError(f"{path} holds no blind codes (an object with the entry codes). Name the {KEY_SUFFIX} file written with the rating page.")
    return {str(code): name for code, name in codes.items()}


def _find_key(path: Path, codes: Iterable[str]) -> dict[str, str]:
    """The key beside a CSV file that knows its codes. Other files may have such a name: what is no key is passed over."""
    wanted = set(codes)
    for candidate in sorted(path.parent.glob(f"*{KEY_SUFFIX}")):
        with suppress(InputError):
            key = read_key(candidate)
            if wanted <= set(key):
                return key
    raise InputError(
        f"{path} holds blind codes ({min(wanted)}, ...), and no *{KEY_SUFFIX} file beside it knows all of them. "
        "Put the key that was written with the rating page there, or name it."
    )


def _resolve(path: Path, ratings: list[Rating], key: Mapping[str, str] | None) -> list[Rating]:
    codes = {rating.submission for rating in ratings if rating.submission.startswith(BLIND_PREFIX)}
    if not codes:
        return ratings
    names = _find_key(path, codes) if key is None else key
    unknown = sorted(codes - set(names))
    if unknown:
        raise InputError(f"{path} holds the blind code {unknown[0]}, which the key does not know. The key belongs to another rating page.")
    return [Rating(r.rater, names.get(r.submission, r.submission), r.category, r.scan, r.value) for r in ratings]


def read_ratings(path: Path | str, *, key: Path | str | None = None) -> list[Rating]:
    """Ratings from a CSV file with the columns rater, submission, category, scan, value.

    key: the file that resolves the blind codes of a rating page; None looks for one beside the CSV file. Names instead of codes need none.
    The truth is called `TRUTH_NAME`.
    Raises InputError naming file and line: unreadable, columns missing, unknown category, a value off the scale, the same item rated twice by one
    rater, codes without a key.
    """
    path = Path(path)
    ratings = _resolve(path, _parse(path), None if key is None else read_key(key))
    check_unique(ratings, str(path))
    return ratings


def check_unique(ratings: Iterable[Rating], source: str) -> None:
    """Raises InputError where one rater rated an item twice; source (the files) is named."""
    seen = set()
    for r in ratings:
        item = (r.rater, r.submission, r.category, r.scan)
        if item in seen:
            raise InputError(f"{source}: {r.rater} rated {r.category} of {r.submission} on {r.scan} twice. Keep one; two raters need two names.")
        seen.add(item)


def _worst(ratings: Iterable[Rating]) -> dict[tuple[str, str, str, int | None], int]:
    """(rater, submission, category, stage) -> the worst over the scans of that stage."""
    worst: dict[tuple[str, str, str, int | None], int] = {}
    for r in ratings:
        item = (r.rater, r.submission, r.category, stage_of_scan(r.scan))
        worst[item] = max(worst.get(item, 0), r.value)
    return worst


def mean_by_category(ratings: Iterable[Rating]) -> dict[str, dict[str, float]]:
    """Submission -> category -> mean over the raters of the worst over the scans of a stage; for discrepancies the share of raters who saw one."""
    collected: dict[str, dict[str, list[int]]] = {}
    for (_, submission, category, _), value in _worst(ratings).items():
        collected.setdefault(submission, {}).setdefault(category, []).append(value)
    return {name: {category: sum(v) / len(v) for category, v in categories.items()} for name, categories in collected.items()}


def mean_visual(ratings: Iterable[Rating]) -> dict[str, float]:
    """Submission -> mean of streaking, unnaturalness and noise, 0 (best) to 3: the worst of the scans counts, averaged over the raters.

    Submissions that were not rated on all three scales are left out. The truth is among them, as `TRUTH_NAME`.
    """
    means = mean_by_category(ratings)
    return {name: sum(own[scale] for scale in SCALES) / len(SCALES) for name, own in means.items() if all(scale in own for scale in SCALES)}


@dataclass(frozen=True, slots=True)
class Correlations:
    """raters; matrix: Pearson's correlation of each pair, None where undefined; n_shared: how many items both rated."""

    raters: tuple[str, ...]
    matrix: tuple[tuple[float | None, ...], ...]
    n_shared: tuple[tuple[int, ...], ...]


def _pearson(a: Sequence[float], b: Sequence[float]) -> float | None:
    if len(a) < _MIN_SHARED or len(set(a)) < 2 or len(set(b)) < 2:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def rater_correlations(ratings: Iterable[Rating]) -> Correlations:
    """How far raters agree: Pearson's correlation between each two of them over the (submission, scale, stage) items both rated, worst of the scans.

    The truth and the discrepancies are left out: everybody gives the truth 0, which would feign agreement. None with fewer than three shared items,
    or where one of the two gave the same value throughout.
    """
    by_rater: dict[str, dict[tuple[str, str, int | None], int]] = {}
    for (rater, submission, category, stage), value in _worst(ratings).items():
        items = by_rater.setdefault(rater, {})
        if category in SCALES and submission != TRUTH_NAME:
            items[submission, category, stage] = value
    raters = tuple(sorted(by_rater))
    matrix, n_shared = [], []
    for a in raters:
        shared = [[item for item in by_rater[a] if item in by_rater[b]] for b in raters]
        pairs = zip(raters, shared, strict=True)
        matrix.append(tuple(_pearson([by_rater[a][i] for i in items], [by_rater[b][i] for i in items]) for b, items in pairs))
        n_shared.append(tuple(len(items) for items in shared))
    return Correlations(raters, tuple(matrix), tuple(n_shared))
