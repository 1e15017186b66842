"""Reading the data of the challenge's toolbox: each file by its name, each mistake by its file."""

import re
import shutil

import numpy as np
import pytest
import torch
from toolbox_samples import SHAPE, STONE, VOXEL_MM, head, volumes, write_toolbox

from qsmdl.errors import InputError
from qsmdl.io.fingerprint import content_hash
from qsmdl.io.nifti import read_volume, write_volume
from qsmdl.io.toolbox import data_folder, find_model, read_model
from qsmdl.scan import LABELS


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_toolbox(tmp_path_factory.mktemp("toolbox") / "data")


@pytest.fixture
def toolbox(original, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(original, tmp_path / "data")


def rewrite(folder, name, change, voxel_mm=VOXEL_MM):
    path = folder / name
    volume, _ = read_volume(path)
    write_volume(path, change(volume), voxel_size_mm=(voxel_mm,) * 3, overwrite=True, dtype=np.float32)


@pytest.mark.parametrize("simulation", [1, 2])
def test_the_files_become_a_phantom(original, simulation, caplog):
    model = read_model(original, simulation)
    phantom, given = model.phantom, volumes()
    assert phantom.geometry.shape == SHAPE
    np.testing.assert_allclose(phantom.geometry.voxel_size_mm, (VOXEL_MM,) * 3, rtol=1e-6)
    assert phantom.geometry.b0_tesla == 7.0
    assert phantom.geometry.b0_direction == (0.0, 0.0, 1.0)
    assert torch.equal(phantom.mask, head().mask)
    name = "chimodel/ChiModelMIX_noCalc.nii" if simulation == 1 else "chimodel/ChiModelMIX.nii"
    assert torch.equal(phantom.chi_ppm, torch.where(head().mask, given[name], 0.0))  # sources in the brain only, as in the challenge
    assert torch.equal(phantom.m0, given["maps/M0.nii.gz"])
    assert torch.equal(phantom.r1_per_s, given["maps/R1.nii.gz"])
    assert torch.equal(phantom.r2star_per_s, given["maps/R2star.nii.gz"])
    assert set(model.contents) == {name.split(".")[0], *(n.split(".")[0] for n in given if not n.startswith("chi"))}
    assert model.contents["maps/R1"] == content_hash(given["maps/R1.nii.gz"])
    assert caplog.text == ""


def test_only_sim2_has_a_calcification(original):
    one, two = (read_model(original, simulation).phantom for simulation in (1, 2))
    stone = two.labels == LABELS["calcification"]
    assert int(stone.sum()) == 27
    assert bool(stone[STONE].all())
    assert float(two.chi_ppm[STONE].max()) == -1.5
    assert not bool((one.labels == LABELS["calcification"]).any())
    assert torch.equal(one.labels[~stone], two.labels[~stone])
    around = two.labels[19:24, 29:34, 32:37].unique().tolist()
    assert set(one.labels[STONE].unique().tolist()) <= set(around)
    assert not torch.equal(one.chi_ppm[STONE], two.chi_ppm[STONE])


def test_the_folder_above_data_will_do(original):
    assert data_folder(original.parent) == original
    assert data_folder(original) == original


def test_both_suffixes_are_found(toolbox):
    before = read_model(toolbox, 2)
    path = toolbox / "maps" / "M0.nii.gz"
    volume, _ = read_volume(path)
    path.unlink()
    write_volume(toolbox / "maps" / "M0.nii", volume, voxel_size_mm=(VOXEL_MM,) * 3)
    assert read_model(toolbox, 2).contents == before.contents


def test_without_a_brain_mask_the_labels_tell(toolbox, caplog):
    (toolbox / "masks" / "BrainMask.nii.gz").unlink()
    mask = read_model(toolbox, 2).phantom.mask
    outside = [0, *(LABELS[name] for name in ("fat", "bone", "air", "muscle"))]
    assert torch.equal(mask, ~torch.isin(volumes()["masks/SegmentedModel.nii.gz"], torch.tensor(outside, dtype=torch.uint8)))
    assert "no masks/BrainMask" in caplog.text


def test_noise_outside_the_brain_is_no_mistake(toolbox):
    outside = ~head().mask

    def spoil(volume):
        volume[outside] = -1.0
        volume[0, 0, 0] = float("nan")
        return volume

    for name in ("maps/M0.nii.gz", "maps/R2star.nii.gz"):
        rewrite(toolbox, name, spoil)
    phantom = read_model(toolbox, 2).phantom
    assert float(phantom.r2star_per_s[outside].abs().max()) == float(phantom.m0[outside].abs().max()) == 0


def negative(volume):
    volume[head().mask] -= 60 * (torch.rand(int(head().mask.sum()), generator=torch.Generator().manual_seed(0)) < 0.01)
    return volume


def holed(volume):
    volume[25, 30, 30] = float("nan")
    return volume


def without_stone(volume):
    volume[STONE] = LABELS["white_matter"]
    return volume


DAMAGE = {
    "no such folder": (lambda t: shutil.rmtree(t), "not the toolbox's data"),
    "two data folders": (lambda t: (t / "data" / "chimodel").mkdir(parents=True), "Both .* Name the one that is meant"),
    "no Sim2": (lambda t: (t / "chimodel/ChiModelMIX.nii").unlink(), "no susceptibility of Sim2: chimodel/ChiModelMIX.nii .*pass --contrast sim1"),
    "no map": (lambda t: (t / "maps/R1.nii.gz").unlink(), "neither R1.nii nor R1.nii.gz"),
    "no labels": (lambda t: (t / "masks/SegmentedModel.nii.gz").unlink(), "neither SegmentedModel.nii"),
    "twice": (lambda t: shutil.copy(t / "chimodel/ChiModelMIX.nii", t / "chimodel/ChiModelMIX.nii.gz"), "both ChiModelMIX.nii and"),
    "another grid": (lambda t: rewrite(t, "maps/R2star.nii.gz", lambda v: v[:-1]), r"R2star.*\(50, 65, 63\).*ChiModelMIX"),
    "another voxel size": (lambda t: rewrite(t, "maps/R1.nii.gz", lambda v: v, voxel_mm=1.0), "R1.*voxels of"),
    "unknown labels": (lambda t: rewrite(t, "masks/SegmentedModel.nii.gz", lambda v: v + 3), "the labels 17, 18"),
    "no whole labels": (lambda t: rewrite(t, "masks/SegmentedModel.nii.gz", lambda v: v * 0.9), "no whole numbers"),
    "no calcification": (lambda t: rewrite(t, "masks/SegmentedModel.nii.gz", without_stone), "no calcification"),
    "negative R2*": (lambda t: rewrite(t, "maps/R2star.nii.gz", negative), "R2star.* negative values inside the brain.*never negative"),
    "R2* as T2*": (lambda t: rewrite(t, "maps/R2star.nii.gz", lambda v: 1 / v.clamp_min(1)), "R2star.*median .*T2"),
    "R1 in 1/ms": (lambda t: rewrite(t, "maps/R1.nii.gz", lambda v: v / 1000), "R1.*median"),
    "M0 of zeros": (lambda t: rewrite(t, "maps/M0.nii.gz", lambda v: 0 * v), "M0.*median 0"),
    "chi in ppb": (lambda t: rewrite(t, "chimodel/ChiModelMIX.nii", lambda v: 1000 * v), "ChiModelMIX.nii reaches .* ppm"),
    "NaN in the brain": (lambda t: rewrite(t, "chimodel/ChiModelMIX.nii", holed), "ChiModelMIX.nii holds 1 NaN"),
    "empty brain": (lambda t: rewrite(t, "masks/BrainMask.nii.gz", lambda v: 0 * v), "BrainMask.* empty"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_mistakes_are_named(toolbox, what):
    damage, message = DAMAGE[what]
    damage(toolbox)
    with pytest.raises(InputError) as told:
        read_model(toolbox, 2)
    assert re.search(message, str(told.value)), told.value


def test_there_are_two_simulations(original):
    with pytest.raises(InputError, match="simulation is 3"):
        find_model(original, 3)
