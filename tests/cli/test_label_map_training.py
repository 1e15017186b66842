"""Label maps in training: read, recorded with their fingerprints, and refused where they are evaluation data."""

import os

import nibabel as nib
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from small_sets import fill

from qsmdl.cli.build import config_folder, plain
from qsmdl.cli.records import Earlier, Guard, begin_record
from qsmdl.cli.train import make_data
from qsmdl.errors import InputError
from qsmdl.io.evaluation import write_mark


@pytest.fixture
def folder(tmp_path):
    """Two small FreeSurfer-like segmentations."""
    labels = np.zeros((20, 24, 22), dtype=np.int16)
    labels[4:16, 4:20, 4:18] = 2
    labels[7:12, 8:14, 8:14] = 12
    for number, volume in enumerate((labels, np.roll(labels, 2, axis=1))):
        target = tmp_path / "maps" / f"sub-{number}" / "aseg.nii.gz"
        target.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(volume, np.diag([8.0, 8.0, 9.0, 1.0])), target)
    return tmp_path / "maps"


def config_with(*overrides):
    with initialize_config_dir(version_base=None, config_dir=os.fspath(config_folder())):
        return compose("train", overrides=["experiment=none", "phantom=engine", "acquisition=engine", *overrides])


def only_label_maps(folder, *overrides):
    kinds = "phantom.engine.kinds={head:0,shapes:0,texture:0,label_map:1}"
    return config_with(kinds, f"data.label_maps.folder={folder}", "phantom.engine.max_voxels=20000", "data.n_workers=0", *overrides)


def test_label_maps_are_trained_on_and_recorded(folder):
    config = only_label_maps(folder, "data.patch_size=[16,16,16]", "data.batches_per_volume=1")
    data = make_data(config)
    assert [atlas.name for atlas in data.atlases] == ["aseg.nii.gz", "aseg.nii.gz"]
    batch = next(iter(data.train_dataloader()))
    assert float(batch["chi_ppm"].abs().max()) > 0
    record = begin_record(Guard.of(config), data, plain(config.network), Earlier())(3)
    (source,) = [source for source in record["sources"] if source["kind"] == "folder"]
    assert len(source["volumes"]) == 2
    assert {volume["content"] for volume in source["volumes"]} == set(record["volumes"])


def test_evaluation_data_are_no_label_maps(folder):
    write_mark(folder / "sub-1", "a test")
    config = only_label_maps(folder)
    with pytest.raises(InputError, match="evaluation"):
        begin_record(Guard.of(config), make_data(config), plain(config.network), Earlier())


def test_label_maps_that_are_not_there(folder, tmp_path):
    with pytest.raises(InputError, match=r"data\.label_maps\.folder names none"):
        make_data(config_with("phantom.engine.kinds.label_map=0.5"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no \.nii"):
        make_data(only_label_maps(tmp_path / "empty"))
    with pytest.raises(InputError, match="rc3"):
        make_data(only_label_maps(folder, "data.label_maps.table=rc3"))
    # Not drawn, not read.
    assert make_data(config_with(f"data.label_maps.folder={tmp_path / 'empty'}")).atlases == ()


def test_what_is_read_is_what_is_fingerprinted(folder):
    """A hidden file is neither: a copy of a truth could not be slipped in unseen."""
    (folder / "sub-1" / "aseg.nii.gz").rename(folder / "sub-1" / ".aseg.nii.gz")
    config = only_label_maps(folder)
    data = make_data(config)
    record = begin_record(Guard.of(config), data, plain(config.network), Earlier())(1)
    (source,) = [source for source in record["sources"] if source["kind"] == "folder"]
    assert [atlas.name for atlas in data.atlases] == [volume["name"].split("/")[-1] for volume in source["volumes"]] == ["aseg.nii.gz"]


def test_a_fixed_set_of_label_maps_needs_the_same_ones(folder, tmp_path):
    words = ("experiment=none", "phantom=engine", "acquisition=engine", "phantom.engine.kinds={head:0,shapes:0,texture:0,label_map:1}")
    fill(tmp_path / "set", 1, (*words, "phantom.engine.max_voxels=20000", f"data.label_maps.folder={folder}"))
    config = only_label_maps(folder, f"data.cache.folder={tmp_path / 'set'}", "guard.n_previews=1")
    record = begin_record(Guard.of(config), make_data(config), plain(config.network), Earlier())(1)
    assert [len(source["volumes"]) for source in record["sources"] if source["kind"] == "folder"] == [2, 1]
    table = tmp_path / "table.yaml"
    table.write_text("extends: freesurfer\n12: thalamus\n")
    with pytest.raises(InputError, match=r"They differ in label_maps .* Train with the settings of the set"):
        make_data(only_label_maps(folder, f"data.cache.folder={tmp_path / 'set'}", f"data.label_maps.table={table}"))
    write_mark(folder / "sub-1", "a test")
    with pytest.raises(SystemExit):
        fill(tmp_path / "other", 1, (*words, "phantom.engine.max_voxels=20000", f"data.label_maps.folder={folder}"))
    assert not (tmp_path / "other").exists()
