"""Which state of the code made a result: a version number does not tell one commit from the next."""

import functools
import hashlib
from pathlib import Path

from qsmdl.challenge.maps import file_digest

PACKAGE = Path(__file__).parent.parent
WITHOUT = ("cli", "report")
"""What asks for maps and scores, and what shows them, but makes neither."""


def digest_of(package: Path) -> str:
    """16 hex digits that change when a Python file of a package is changed, added, renamed or removed, those in `WITHOUT` excepted."""
    found = sorted((path.relative_to(package), path) for path in package.rglob("*.py"))
    digest = hashlib.sha256()
    for name, path in found:
        if name.parts[0] not in WITHOUT:
            digest.update(f"{name.as_posix()} {file_digest(path)}\n".encode())
    return digest.hexdigest()[:16]


@functools.cache
def code_digest() -> str:
    """`digest_of` qsmdl as it was at the first call: ask before anything is computed, since files may change while it runs. Methods of other packages
    are not in it.
    """
    return digest_of(PACKAGE)
