import errno
import json
import os

import pytest

from qsmdl.errors import InputError
from qsmdl.io.files import atomic_folder, atomic_path, read_json, write_json, write_text


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def no_space(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("name", ["chi.nii.gz", "chi.nii", "figure.png", "rows"])
def test_hidden_file_lies_beside_the_target_with_its_suffix(tmp_path, name):
    target = tmp_path / "new" / "folder" / name
    with atomic_path(target) as hidden:
        assert hidden.parent == target.parent
        assert hidden.name.startswith(".")
        assert hidden.name.endswith(name[name.index(".") :] if "." in name else "")
        hidden.write_text("content")
        assert not target.exists()
    assert target.read_text() == "content"
    assert names(target.parent) == [name]


def test_new_files_are_as_readable_as_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "atomic", "")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_existing_target_is_refused_with_the_remedy(tmp_path):
    target = tmp_path / "chi.nii"
    target.write_text("old")
    with pytest.raises(InputError, match=r"chi\.nii exists already.*--overwrite"), atomic_path(target):
        pytest.fail("the block must not run")
    write_text(target, "new", overwrite=True)
    assert target.read_text() == "new"


def test_target_that_appears_meanwhile_is_not_replaced(tmp_path):
    target = tmp_path / "chi.nii"
    with pytest.raises(InputError, match="exists already"), atomic_path(target) as hidden:  # noqa: PT012
        hidden.write_text("mine")
        target.write_text("theirs")
    assert target.read_text() == "theirs"
    assert names(tmp_path) == ["chi.nii"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_a_kill_while_writing_leaves_nothing(tmp_path, error):
    with pytest.raises(error), atomic_path(tmp_path / "chi.nii") as hidden:  # noqa: PT012
        hidden.write_text("half")
        raise error
    assert names(tmp_path) == []


@pytest.mark.parametrize("step", ["fsync", "write", "replace"])
def test_full_disk_names_file_and_reason_and_keeps_the_old_file(tmp_path, monkeypatch, step):
    target = tmp_path / "chi.nii"
    target.write_text("old")
    if step == "fsync":
        monkeypatch.setattr(os, "fsync", no_space)
    if step == "replace":
        monkeypatch.setattr(type(target), "replace", no_space)
    with pytest.raises(InputError, match=r"chi\.nii could not be written: No space left on device"), atomic_path(target, overwrite=True) as hidden:  # noqa: PT012
        hidden.write_text("half")
        if step == "write":
            no_space()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["chi.nii"]


def test_folder_or_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="is a folder"), atomic_path(tmp_path / "folder", overwrite=True):
        pytest.fail("the block must not run")
    with pytest.raises(InputError, match=r"folder .*file.* cannot be made"), atomic_path(tmp_path / "file" / "chi.nii"):
        pytest.fail("the block must not run")


def test_folder_appears_as_a_whole(tmp_path):
    with atomic_folder(tmp_path / "Sim1") as hidden:
        (hidden / "a.nii").write_text("a")
        assert not (tmp_path / "Sim1").exists()
    assert names(tmp_path) == ["Sim1"]
    assert names(tmp_path / "Sim1") == ["a.nii"]


def test_a_kill_while_filling_a_folder_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "Sim1") as hidden:  # noqa: PT012
        (hidden / "a.nii").write_text("a")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_folder_is_replaced_only_where_it_holds_nothing_else(tmp_path):
    folder = tmp_path / "Sim1"
    folder.mkdir()
    (folder / "a.nii.gz").write_text("old")
    with pytest.raises(InputError, match="--overwrite"), atomic_folder(folder, contents=("a",)):
        pytest.fail("the block must not run")
    with atomic_folder(folder, overwrite=True, contents=("a",)) as hidden:
        (hidden / "a.nii").write_text("new")
    assert names(folder) == ["a.nii"]
    (folder / "thesis.tex").write_text("three years")
    with pytest.raises(InputError, match=r"holds thesis\.tex"), atomic_folder(folder, overwrite=True, contents=("a",)):
        pytest.fail("the block must not run")
    assert (folder / "thesis.tex").exists()
    assert names(tmp_path) == ["Sim1"]


def test_old_folder_comes_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    folder = tmp_path / "Sim1"
    folder.mkdir()
    (folder / "a.nii").write_text("old")
    monkeypatch.setattr(type(folder), "replace", no_space)
    with pytest.raises(InputError, match="No space left"), atomic_folder(folder, overwrite=True, contents=("a",)) as hidden:
        (hidden / "a.nii").write_text("new")
    assert (folder / "a.nii").read_text() == "old"
    assert names(tmp_path) == ["Sim1"]


def test_file_in_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "Sim1").write_text("a file")
    with pytest.raises(InputError, match="not a plain folder"), atomic_folder(tmp_path / "Sim1", overwrite=True):
        pytest.fail("the block must not run")


def test_json_round_trip_and_its_limits(tmp_path):
    content = {"µ": [1, 2.5, None, True], "name": "Sim1"}
    write_json(tmp_path / "rows.json", content)
    assert read_json(tmp_path / "rows.json") == content
    for bad in ({"x": float("nan")}, {"x": object()}):
        with pytest.raises(InputError, match=r"bad\.json cannot be written as JSON"):
            write_json(tmp_path / "bad.json", bad)
    assert names(tmp_path) == ["rows.json"]


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"", b"[" * 100_000])
def test_what_is_no_json_is_named(tmp_path, content):
    path = tmp_path / "params.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"params\.json is not valid JSON"):
        read_json(path)
    with pytest.raises(InputError, match=r"missing\.json could not be read"):
        read_json(tmp_path / "missing.json")
    assert json.loads('{"sane": 1}') == {"sane": 1}
