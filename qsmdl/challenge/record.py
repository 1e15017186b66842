"""protocol.json: what a run of a stage did, written before it begins and completed as it goes on."""

import fcntl
import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qsmdl import __version__
from qsmdl.challenge.maps import MAPS, check_unchanged
from qsmdl.errors import InputError
from qsmdl.io.files import read_json, write_json

logger = logging.getLogger(__name__)

FILE_NAME = "protocol.json"
LOCK = ".lock"
"""What a run keeps to itself in its folder while it works there."""
STATES = ("reconstructing", "maps written", "scored")
"""The truths of stage 1 are opened only from the second on."""


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keeps `path` (an empty file, made where it is not there) to this process until the block ends, or the process, however it does.

    Raises InputError where another process has it. On a file system without locks nothing is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"Another process works in {path.parent} (it holds {path.name}). Wait for its end, or choose another folder.") from error
        except OSError as error:
            logger.warning("%s cannot be locked (%s): see to it that no other process works there.", path, error.strerror)
        yield


def versions() -> dict[str, str]:
    """Of everything that numbers may depend on."""
    packages = {name: version(name) for name in ("torch", "numpy", "scipy", "optuna")}
    return {"qsmdl": __version__, "python": platform.python_version(), **packages}


@dataclass
class Record:
    """The protocol of a run in its folder. fixed: what must not change when the run is called again; notes: everything else that is said."""

    folder: Path
    fixed: dict[str, Any]
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / FILE_NAME

    def begin(self) -> bool:
        """Take the folder, or go on in it (True). Raises InputError where it holds a run with other settings, or one without a protocol."""
        going_on = self.path.exists()
        if going_on:
            before = read_json(self.path)
            known = {key: before.get(key) for key in self.fixed} if isinstance(before, dict) else before
            check_unchanged(self.path, known, self.fixed)
        elif (self.folder / MAPS).exists() or (self.folder / "rows.json").exists():
            raise InputError(f"{self.folder} holds another run, without {FILE_NAME}. Choose another hydra.run.dir.")
        self.write(STATES[0])
        return going_on

    def write(self, state: str, **notes: Any) -> None:
        """Write what is known by now."""
        self.notes |= notes
        write_json(self.path, {"state": state, **self.fixed, **self.notes, "versions": versions()}, overwrite=True)
