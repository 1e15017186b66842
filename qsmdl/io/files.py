"""Writing that either succeeds as a whole or leaves nothing behind.

A target appears under its name only when it is complete: the content is built under a hidden name in the same folder (so that the final
rename stays on one file system), flushed to the disk and then renamed.
"""

import json
import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from qsmdl.errors import InputError


def _suffix(path: Path) -> str:
    """The suffix that tells nibabel and matplotlib the format; `.nii.gz` counts as one."""
    return ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix


def _hidden_sibling(path: Path) -> Path:
    suffix = _suffix(path)
    stem = path.name[: len(path.name) - len(suffix)]
    return path.with_name(f".{stem}.{uuid.uuid4().hex[:8]}{suffix}")


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if os.path.lexists(path) and not overwrite:
        raise InputError(f"{path} exists already and is not replaced. Choose another name, or pass --overwrite.")


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {path.parent} for {path.name} cannot be made: {_reason(error)}. Choose a folder you may write to.") from error


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _cannot_write(path: Path, error: OSError) -> InputError:
    return InputError(
        f"{path} could not be written: {_reason(error)}. Nothing was left behind: check free space and permissions, or write elsewhere."
    )


def _flush(path: Path) -> None:
    """Waits until the content of a file (or the entries of a folder) are on the disk, so that the rename cannot overtake them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: Path | str, overwrite: bool = False) -> Iterator[Path]:
    """Yields a hidden path beside `path`; what was written there takes the name `path` when the block ends well.

    On any exception, KeyboardInterrupt included, the hidden file is removed and an existing target stays as it was. A missing parent folder is
    made. Raises InputError: the target exists and overwrite is false; it is a folder; the operating system refuses to write (disk full, ...).
    """
    path = Path(path)
    _refuse_existing(path, overwrite)
    if path.is_dir():
        raise InputError(f"{path} is a folder, but a file is to be written there. Give a file name.")
    _make_parent(path)
    hidden = _hidden_sibling(path)
    try:
        yield hidden
        _flush(hidden)
        _refuse_existing(path, overwrite)
        hidden.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            hidden.unlink(missing_ok=True)


def _check_replaceable(folder: Path, overwrite: bool, contents: Collection[str]) -> None:
    """Replacing a folder deletes it: only one that holds nothing but `contents` may go."""
    _refuse_existing(folder, overwrite)
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise InputError(f"{folder} exists and is not a plain folder, so it is not replaced. Remove it or choose another name.")
    strangers = sorted(entry.name for entry in folder.iterdir() if entry.name.split(".")[0] not in contents)
    if strangers:
        raise InputError(
            f"{folder} holds {strangers[0]}{' and more' if strangers[1:] else ''}, which is not part of what is written, "
            "so the folder is not replaced. Move that elsewhere, or choose another folder."
        )


@contextmanager
def atomic_folder(path: Path | str, overwrite: bool = False, *, contents: Collection[str] = ()) -> Iterator[Path]:
    """Yields a hidden folder beside `path` that takes the name `path` when the block ends well, and is removed otherwise.

    contents: names (without suffixes) that an existing folder may hold and still be replaced when overwrite is true; more is somebody's work.
    Raises InputError as `atomic_path` does, and for an existing folder that holds more than `contents`.
    """
    path = Path(path)
    _check_replaceable(path, overwrite, contents)
    _make_parent(path)
    hidden, old = _hidden_sibling(path), _hidden_sibling(path)
    try:
        hidden.mkdir()
        yield hidden
        _flush(hidden)
        _check_replaceable(path, overwrite, contents)
        _swap_folders(hidden, path, old)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _swap_folders(new: Path, target: Path, old: Path) -> None:
    """A folder that is not empty cannot be replaced in one step: the old one steps aside and comes back if the new one cannot take its place."""
    had_target = target.exists()
    if had_target:
        target.rename(old)
    try:
        new.replace(target)
    except BaseException:
        if had_target:
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_text(path: Path | str, text: str, overwrite: bool = False) -> None:
    """Writes UTF-8 text atomically. Raises InputError as `atomic_path`."""
    with atomic_path(path, overwrite) as hidden:
        hidden.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path | str, content: Any, overwrite: bool = False) -> None:
    """Writes plain numbers, texts, lists and dicts as JSON (no NaN, which JSON does not know). Raises InputError as `atomic_path`."""
    try:
        text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"The content for {path} cannot be written as JSON: {error}. Finite numbers, texts, lists and dicts can.") from error
    write_text(path, text + "\n", overwrite)


def read_json(path: Path | str) -> Any:
    """Reads a JSON file. Raises InputError naming the file: missing, unreadable, not UTF-8 or not JSON."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} could not be read: {_reason(error)}.") from error
    except (ValueError, RecursionError) as error:  # also of bytes that are no text, and of whole numbers with thousands of digits
        raise InputError(f"{path} is not valid JSON: {error}. Correct the file.") from error
