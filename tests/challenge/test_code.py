"""The digest of the code that makes maps and scores."""

import shutil

import pytest

from qsmdl.challenge.code import PACKAGE, code_digest, digest_of


@pytest.fixture
def package(tmp_path):
    """Three files: two that make maps, one that shows them."""
    for name in ("physics/dipole.py", "solvers/dipole.py", "report/table.py"):
        path = tmp_path / "package" / name
        path.parent.mkdir(parents=True)
        path.write_text(f"# {name}\n")
    return tmp_path / "package"


def test_it_is_that_of_the_files_wherever_they_lie(package, tmp_path):
    copy = shutil.copytree(package, tmp_path / "elsewhere")
    (copy / "physics" / "notes.txt").write_text("no code")
    assert digest_of(copy) == digest_of(package)
    assert len(digest_of(package)) == 16


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "physics" / "dipole.py").write_text("# changed\n"),
        lambda folder: (folder / "physics" / "new.py").write_text(""),
        lambda folder: (folder / "physics" / "dipole.py").unlink(),
        lambda folder: (folder / "physics" / "dipole.py").rename(folder / "physics" / "renamed.py"),
        lambda folder: (folder / "physics" / "cli").mkdir() or (folder / "physics" / "cli" / "new.py").write_text(""),
    ],
    ids=["changed", "added", "removed", "renamed", "only the storeys themselves are left out"],
)
def test_every_change_of_what_makes_maps_changes_it(package, change):
    before = digest_of(package)
    change(package)
    assert digest_of(package) != before


def test_what_only_shows_maps_does_not(package):
    before = digest_of(package)
    (package / "report" / "table.py").write_text("# changed\n")
    (package / "cli").mkdir()
    (package / "cli" / "main.py").write_text("# new\n")
    assert digest_of(package) == before


def test_the_packages_own():
    assert (PACKAGE / "physics").is_dir()
    assert code_digest() == digest_of(PACKAGE)
