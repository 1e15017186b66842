"""Blind scoring of a folder of submissions: many archives from strangers, in parallel, each on its own, resumable.

Scoring knows identifiers only. The forms, which tell whose method is whose, are opened by `join_forms`, after the last score has been written.
"""

import hashlib
import logging
import math
import multiprocessing
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from io import BufferedReader
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from qsmdl.challenge.archive import Member, member_bytes, read_directory, shown
from qsmdl.challenge.form import check_identifier
from qsmdl.challenge.mapfile import largest_file_bytes, read_map
from qsmdl.challenge.metrics import Scores
from qsmdl.challenge.plan import Plan, fingerprint_of
from qsmdl.challenge.references import Reference, load_references
from qsmdl.challenge.submission import check_complete, scan_of_entry
from qsmdl.errors import InputError
from qsmdl.io.files import read_json, write_json

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Judged(NamedTuple):
    """The scores of a submission, by scan. resumed: read from an earlier run instead of computed."""

    file: str
    identifier: str
    scores: Mapping[str, Scores]
    resumed: bool


class Refused(NamedTuple):
    """A submission without scores, and why."""

    file: str
    reason: str


Outcome = Judged | Refused
OnOutcome = Callable[[Outcome, int, int], None]


def find_archives(folder: Path | str) -> list[Path]:
    """The files of a folder whose names end in .zip, sorted. Raises InputError: no folder, or none in it."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder. Name the folder of the submissions' zip archives.")
    found = sorted(path for path in folder.iterdir() if path.name.lower().endswith(".zip"))
    if not found:
        raise InputError(f"{folder} holds no file that ends in .zip. Name the folder of the submissions' zip archives.")
    return found


def _open_plain(path: Path, max_bytes: int) -> BufferedReader:
    """Opens an archive that is a plain file of moderate size: a link or a pipe could lead anywhere or never end."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError("it is a link, a folder or a special file, not a plain file. Hand in the archive itself.")
        if status.st_size > max_bytes:
            raise InputError(
                f"it has {status.st_size} bytes, but an archive of maps on this grid has at most "
                f"{max_bytes}. Pack it with `qsmdl submit`."
            )
        return path.open("rb")
    except OSError as error:
        raise InputError(f"it could not be opened: {error.strerror}. Check its permissions.") from error


def _identifier_of(path: Path) -> str:
    if path.suffix != ".zip":
        raise InputError(f"its name ends in {path.suffix!r} instead of '.zip'. Rename it.")
    return check_identifier(path.stem)


def _members_by_scan(file: BinaryIO, identifier: str, plan: Plan, max_bytes: int) -> dict[str, Member]:
    members = read_directory(file, max_bytes=max_bytes)
    scans = [scan_of_entry(member.name, identifier, plan.stage) for member in members]
    check_complete(scans, plan.stage)
    return dict(zip(scans, members, strict=True))


def _score_member(file: BinaryIO, member: Member, reference: Reference, plan: Plan) -> Scores:
    name = shown(member.name)
    chunks = member_bytes(file, member)
    gzipped = member.name.endswith(".gz")
    chi = read_map(chunks, name=name, gzipped=gzipped, shape=reference.shape, mask=reference.mask)
    reference.check_scaling(name, chi)
    return reference.score(chi, dialect=plan.dialect, additional=plan.additional)


def _is_scores(value: Any) -> bool:
    return isinstance(value, dict) and all(v is None or (isinstance(v, int | float) and math.isfinite(v)) for v in value.values())


def _earlier_scores(plan: Plan, sha256: str) -> Mapping[str, Scores] | None:
    """The scores that an earlier run wrote, or None where there are none that fit."""
    path = plan.path(sha256)
    if not path.is_file():
        return None
    try:
        content = read_json(path)
    except InputError:
        return None
    if not isinstance(content, dict) or any(content.get(key) != value for key, value in plan.identity(sha256).items()):
        return None
    scores = content.get("scores")
    whole = isinstance(scores, dict) and sorted(scores) == sorted(plan.folders) and all(_is_scores(value) for value in scores.values())
    return scores if whole else None


def _judge_open(file: BufferedReader, path: Path, plan: Plan, references: Mapping[str, Reference]) -> tuple[Judged, str]:
    """The scores, and the hash of the archive."""
    identifier = _identifier_of(path)
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    # names are checked even where the scores are known: the same bytes under another name are another claim
    members = _members_by_scan(file, identifier, plan, max(largest_file_bytes(r.shape) for r in references.values()))
    earlier = _earlier_scores(plan, sha256)
    if earlier is not None:
        return Judged(path.name, identifier, earlier, resumed=True), sha256
    scores = {scan: _score_member(file, members[scan], references[scan], plan) for scan in plan.folders}
    return Judged(path.name, identifier, scores, resumed=False), sha256


def judge_archive(path: Path, plan: Plan, references: Mapping[str, Reference]) -> Outcome:
    """Scores one archive and writes its scores, or refuses it with a reason; nothing in it can stop the others.

    references: as `references.load_references` returns them. Raises OSError or InputError where the disk of the judge fails (full, unwritable): that
    is not the submission's fault.
    """
    max_bytes = sum(largest_file_bytes(r.shape) for r in references.values()) * 11 // 10 + (1 << 20)
    name = path.name.encode(errors="backslashreplace").decode()  # file systems allow names that no text file can hold
    try:
        with _open_plain(path, max_bytes) as file:
            judged, sha256 = _judge_open(file, path, plan, references)
    except InputError as error:
        return Refused(name, str(error))
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a hostile archive provokes, the others go on
        return Refused(name, f"it provoked {type(error).__name__}: {ascii(str(error))[:200]}. Pack it with `qsmdl submit`.")
    if not judged.resumed:
        content = {**plan.identity(sha256), "identifier": judged.identifier, "scores": judged.scores}
        write_json(plan.path(sha256), content, overwrite=True)
    return judged


class _Worker:
    """What a worker process keeps between archives."""

    plan: Plan
    references: Mapping[str, Reference]
    unchanged: bool


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)  # a killed judge must not leave workers behind that wait for work for ever


def _start_worker(plan: Plan) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; a worker ends after its archive
    logging.getLogger("qsmdl").setLevel(logging.ERROR)  # the parent has read the same truths and passed its warnings on
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _Worker.plan, _Worker.references = plan, load_references(plan.folders)
    _Worker.unchanged = fingerprint_of(_Worker.references) == plan.fingerprint


def _work(path: Path) -> Outcome:
    if not _Worker.unchanged:
        raise InputError("The truths changed while the judging began, so no score would be of those that were checked. Run the same command again.")
    return judge_archive(path, _Worker.plan, _Worker.references)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Workers that start within compute with one thread: several processes with several threads each would fight over the cores."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _in_parallel(paths: Sequence[Path], plan: Plan, jobs: int) -> Iterator[Outcome]:
    context = multiprocessing.get_context("spawn")  # forking a process in which torch has started threads can hang
    with _one_thread_each(), ProcessPoolExecutor(min(jobs, len(paths)), context, _start_worker, (plan,)) as pool:
        try:
            for future in as_completed([pool.submit(_work, path) for path in paths]):
                yield future.result()
        except BrokenProcessPool as error:
            raise InputError(
                "A worker process was killed, perhaps for lack of memory (each needs about 1 GB at 164 x 205 x 205). "
                "The scores so far are kept: run the same command again with a smaller --jobs."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def judge(
    archives: Sequence[Path],
    plan: Plan,
    references: Mapping[str, Reference],
    *,
    jobs: int = 1,
    on_outcome: OnOutcome | None = None,
) -> tuple[list[Judged], list[Refused]]:
    """Scores archives blindly: (scored, refused), both sorted by file name. Each submission's scores are on the disk before it is told.

    plan, references: see `plan.make_plan`; jobs: processes, each with one thread and its own copy of the truths; on_outcome: called with each
    outcome, how many there are so far, and of how many.
    What an earlier run scored under the same plan is not computed again. Raises InputError: jobs below 1, the disk refuses, a worker was killed.
    """
    if jobs < 1:
        raise InputError(f"jobs is {jobs}; at least one process is needed.")
    plan.scores.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    here = jobs == 1 or len(archives) == 1
    try:
        for outcome in (judge_archive(path, plan, references) for path in archives) if here else _in_parallel(archives, plan, jobs):
            outcomes.append(outcome)
            if on_outcome is not None:
                on_outcome(outcome, len(outcomes), len(archives))
    except OSError as error:
        raise InputError(f"Scoring stopped: {error.strerror or error} (temporary folder or {plan.scores}). Free some space and run again.") from error
    outcomes.sort(key=lambda outcome: outcome.file)
    return [o for o in outcomes if isinstance(o, Judged)], [o for o in outcomes if isinstance(o, Refused)]
