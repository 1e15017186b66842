"""qsmdl simulate --set: written whole or not at all, gone on with, and refused where it is something else."""

import os
import shutil
import signal
from collections import namedtuple

import pytest
import torch
from refused_commands import fails
from small_sets import HEADS, SHAPES, config_of, doctor, fill
from torch.utils.data import DataLoader

from qsmdl.cli import filling
from qsmdl.cli.main import main
from qsmdl.cli.train import make_data
from qsmdl.data import inputs
from qsmdl.errors import InputError
from qsmdl.io import volume_file
from qsmdl.io.fixed_set import volume_numbers, volume_path
from qsmdl.solvers.tv import nltv


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("sets") / "shapes", 3, SHAPES)


@pytest.fixture
def mine(shapes, tmp_path):
    """A set of one's own."""
    return shutil.copytree(shapes, tmp_path / "set")


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def take(iterable, n):
    return [batch for batch, _ in zip(iterable, range(n), strict=False)]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def batches(n, *more):
    return take(make_data(config_of(SHAPES, "data.batches_per_volume=2", *more)).train_dataloader(), n)


def test_batches_of_a_set_are_those_of_the_stream(shapes):
    streamed, kept = batches(8), batches(8, f"data.cache.folder={shapes}")
    assert all(equal(a, b) for a, b in zip(streamed[:6], kept[:6], strict=True))  # volumes 0 to 2
    assert float(kept[7]["chi_ppm"].abs().max()) > 0
    assert not equal(streamed[7], kept[7])  # volume 3 is volume 0 of the set


def test_maps_are_computed_once(mine, monkeypatch):
    """A prior that takes long: the second training reads its maps, and they are the same; those of another file are not taken."""
    calls = []
    real = nltv
    monkeypatch.setattr(inputs, "nltv", lambda field: calls.append(1) or real(field, n_iterations=2))
    words = (f"data.cache.folder={mine}", "data.prior.start=tv", "data.prior.magnitude=true", "data.prior.regularisations=[0.05]")
    first, again = (make_data(config_of(SHAPES, *words)).train_dataloader().dataset for _ in range(2))
    one, other = first._volume(0)[0], again._volume(0)[0]
    assert equal(one, other)
    assert one["prior_ppm"].shape[0] == 4
    assert len(calls) == 1
    (kept,) = (mine / "maps").rglob("volume_00000.safetensors")
    kept.replace(kept.with_name("volume_00001.safetensors"))
    again._volume(1)
    assert len(calls) == 2
    kept.write_bytes(b"half")
    assert equal(again._volume(0)[0], one)
    assert len(calls) == 3


def test_a_set_is_filled_with_its_maps(tmp_path, monkeypatch):
    """Of the same training's settings: nothing is left to compute in the training."""
    real = nltv
    monkeypatch.setattr(inputs, "nltv", lambda field: real(field, n_iterations=2))
    words = (*SHAPES, "data.prior.start=tv", "data.prior.regularisations=[0.05]")
    streamed = make_data(config_of(words)).train_dataloader().dataset._volume(1)[0]
    folder = fill(tmp_path / "set", 2, words)
    monkeypatch.setattr(inputs, "nltv", None)
    assert equal(make_data(config_of(words, f"data.cache.folder={folder}")).train_dataloader().dataset._volume(1)[0], streamed)


def test_a_set_gets_the_maps_that_it_lacks(mine, monkeypatch):
    """Of another training's prior: its volumes stay, and the maps are those of a training."""
    calls, real = [], nltv
    monkeypatch.setattr(inputs, "nltv", lambda field: calls.append(1) or real(field, n_iterations=2))
    before = {path: path.read_bytes() for path in mine.glob("*.safetensors")}
    words = (*SHAPES, "data.prior.start=tv", "data.prior.regularisations=[0.05]")
    for n_calls in (3, 3):  # the second time nothing is left to do
        fill(mine, 3, words)
        assert len(calls) == n_calls
    assert {path: path.read_bytes() for path in mine.glob("*.safetensors")} == before
    streamed = make_data(config_of(words)).train_dataloader().dataset._volume(1)[0]
    monkeypatch.setattr(inputs, "nltv", None)
    assert equal(make_data(config_of(words, f"data.cache.folder={mine}")).train_dataloader().dataset._volume(1)[0], streamed)


def test_a_set_begins_again_when_it_is_used_up(shapes):
    stream = make_data(config_of(SHAPES, f"data.cache.folder={shapes}")).train_dataloader().dataset
    first, again = stream._volume(1), stream._volume(7)
    assert equal(first[0], again[0])
    assert not equal(first[0], stream._volume(6)[0])


def test_loader_workers_read_the_same(shapes):
    stream = make_data(config_of(SHAPES, f"data.cache.folder={shapes}", "data.batches_per_volume=2")).train_dataloader().dataset
    alone = take(stream, 4)
    assert all(equal(a, b) for a, b in zip(alone, take(DataLoader(stream, batch_size=None, num_workers=1), 4), strict=True))


def test_a_set_goes_on_where_it_ended(shapes, tmp_path):
    folder = fill(tmp_path / "set", 1, SHAPES)
    before = volume_path(folder, 0).stat().st_ino
    (folder / ".volume_00001.0123abcd.safetensors").write_bytes(b"killed half way")
    assert volume_numbers(folder) == [0]
    fill(folder, 1, SHAPES, "--first", "2")
    assert volume_numbers(folder) == [0, 2]
    fill(folder, 3, SHAPES)
    assert contents(folder) == contents(shapes)
    assert volume_path(folder, 0).stat().st_ino == before  # kept, not written again


@pytest.mark.slow
def test_processes_do_not_change_a_set(shapes, tmp_path):
    assert contents(fill(tmp_path / "set", 3, SHAPES, "--jobs", "2")) == contents(shapes)


def test_seeds_are_words_or_options(tmp_path):
    assert contents(fill(tmp_path / "a", 1, SHAPES, "--seed", "5")) == contents(fill(tmp_path / "b", 1, (*SHAPES, "seed=5")))


def test_an_interruption_leaves_whole_volumes(tmp_path, monkeypatch, capsys):
    write = filling.Filling.write

    def interrupted(self, number):
        if number == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return write(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(filling.Filling, "write", interrupted)
        with pytest.raises(SystemExit) as stop:
            fill(tmp_path / "set", 3, SHAPES)
    assert stop.value.code == 130
    assert "call again to go on" in capsys.readouterr().err
    assert volume_numbers(tmp_path / "set") == [0, 1]
    assert volume_numbers(fill(tmp_path / "set", 3, SHAPES)) == [0, 1, 2]


def test_what_is_not_whole_or_another_volume_is_not_kept(mine, capsys):
    path = volume_path(mine, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert "volume_00001.safetensors could not be read" in fails(capsys, "simulate", mine, "--set", 3, *SHAPES)
    shutil.copy(volume_path(mine, 0), path)
    assert "holds another volume than number 1" in fails(capsys, "simulate", mine, "--set", 3, *SHAPES)
    path.unlink()
    fill(mine, 3, SHAPES)
    assert path.read_bytes() == whole


def test_folders_of_something_else_are_refused(mine, tmp_path, capsys):
    before = contents(mine)
    told = fails(capsys, "simulate", mine, "--set", 4, "--seed", 1, *SHAPES)
    assert "seed (0 instead of 1)" in told
    told = fails(capsys, "simulate", mine, "--set", 4, *SHAPES, "phantom.engine.sign_flip=0.7")
    assert "recipe.engine.sign_flip (0.1 instead of 0.7)" in told
    assert "Choose another folder" in told
    assert contents(mine) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    assert "is no set of volumes" in fails(capsys, "simulate", tmp_path / "other", "--set", 1, *SHAPES)
    (mine / "set.json").write_text("[1]")
    assert "set.json is not of the form" in fails(capsys, "simulate", mine, "--set", 4, *SHAPES)


def test_a_set_is_not_begun_without_room(tmp_path, monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")(2**40, 2**40, volume_file.SPARE_BYTES)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    told = fails(capsys, "simulate", tmp_path / "set", "--set", 40, *SHAPES)
    assert "40 volumes need about" in told
    assert "name a folder on another disk" in told
    assert not list(tmp_path.iterdir())


REFUSED = {
    ("--set", "0"): "--set is 0; it must be at least 1",
    ("--set", "1", "--first", "-1"): "--first is -1",
    ("--set", "1", "--jobs", "0"): "--jobs is 0",
    ("--set", "1", "--phantom", "engine"): "phantom=NAME",
    ("--set", "1", "--overwrite"): "Remove the folder to begin anew",
    ("--set", "1", "phantom=nobody"): "could not be read",
    ("--set", "1", "phantom"): "could not be read",
    ("--set", "1", "phantom=engine", "acquisition=engine", "phantom.engine.kinds.label_map=1"): "data.label_maps.folder names none",
    ("phantom=engine",): "only --set takes",
}


@pytest.mark.parametrize("words", REFUSED)
def test_settings_that_cannot_be(words, tmp_path, capsys):
    assert REFUSED[words] in fails(capsys, "simulate", tmp_path / "set", *words)
    assert not list(tmp_path.iterdir())


def test_one_thing_at_a_time(tmp_path):
    with pytest.raises(SystemExit):
        main(["simulate", str(tmp_path), "--set", "1", "--gallery", "1"])


def test_trainings_with_other_settings_are_refused(shapes):
    here = f"data.cache.folder={shapes}"
    with pytest.raises(InputError, match=r"seed 0, but wanted are .* seed 3\. .* Train with the settings of the set"):
        make_data(config_of(SHAPES, here, "seed=3"))
    ours, theirs = (make_data(config_of(words)).recipe.digest for words in (SHAPES, HEADS))
    with pytest.raises(InputError, match=f"recipe {ours}, .* recipe {theirs}"):
        make_data(config_of(HEADS, here))
    with pytest.raises(InputError, match="cache has no setting 'foldr'"):
        make_data(config_of(SHAPES, "+data.cache.foldr=x"))


def test_sets_with_gaps_and_empty_ones_are_refused(mine, tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        make_data(config_of(SHAPES, f"data.cache.folder={tmp_path / 'nowhere'}"))
    volume_path(mine, 1).unlink()
    with pytest.raises(InputError, match=r"has no volume number 1\. Fill the gap: qsmdl simulate .* --set 3"):
        make_data(config_of(SHAPES, f"data.cache.folder={mine}"))
    for number in (0, 2):
        volume_path(mine, number).unlink()
    with pytest.raises(InputError, match="has no volume number 0"):
        make_data(config_of(SHAPES, f"data.cache.folder={mine}"))


def test_blank_volumes_are_refused(mine):
    truth = volume_file.read_volume_file(volume_path(mine, 0)).truth
    doctor(mine, 0, chi_ppm=torch.zeros(int(truth.mask.sum())))
    with pytest.raises(InputError, match="constant, or too small"):
        make_data(config_of(SHAPES, f"data.cache.folder={mine}"))
