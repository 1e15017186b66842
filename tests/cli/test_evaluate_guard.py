"""evaluate.py lets networks with a clean training record in, marks others only when asked to, and stops at a truth in their training."""

import os

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from qsmdl.cli.build import config_folder
from qsmdl.cli.evaluate import as_overrides, evaluate
from qsmdl.errors import InputError
from qsmdl.io.nifti import write_volume
from qsmdl.io.provenance import folder_source, make_record, seal
from qsmdl.io.rc2 import write_release
from qsmdl.io.weights import save_weights
from qsmdl.networks.build import architecture_fingerprint, build_network

SETTINGS = {"architecture": "unet", "keywords": {"width": 2, "depth": 1}}
CARD = {"network": SETTINGS, "prior": {"regularisations": [0.012, 0.003, 0.05]}}


def composed(checkpoint, *overrides):
    with initialize_config_dir(version_base=None, config_dir=os.fspath(config_folder())):
        return compose("evaluate", overrides=["method=[tkd,unet]", f"method.unet.checkpoint={checkpoint}", *overrides])


@pytest.fixture
def weights(tmp_path):
    """Makes weights with a card."""

    def make(name, source=None, prints=()):
        torch.manual_seed(0)
        tensors, card = build_network(SETTINGS).state_dict(), dict(CARD)
        if source is not None:
            card["record"] = seal(make_record([source], architecture=architecture_fingerprint(SETTINGS), fingerprints=prints), tensors)
        save_weights(tmp_path / name, tensors, card)
        return tmp_path / name

    return make


@pytest.fixture
def release(tmp_path, sample):
    write_release(tmp_path / "R" / "Head", *sample)
    return tmp_path / "R"


@pytest.mark.parametrize("stage", ["null", "1"])
def test_unattested_networks_are_refused_or_marked(tmp_path, weights, release, stage):
    path = weights("bare.safetensors")
    settings = [f"data.root={release}", f"stage={stage}"]
    with pytest.raises(InputError, match=r"unet may not enter the deep-learning track: it carries no record"):
        evaluate(composed(path, *settings), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    rows = evaluate(composed(path, *settings, "allow_unattested=true"), tmp_path / "out")
    assert {row["method"]: row["attested"] for row in rows} == {"tkd": None, "unet": False}


@pytest.mark.parametrize("stage", ["null", "1"])
def test_a_truth_in_training_stops_before_scoring(tmp_path, weights, release, sample, stage):
    """Even where unattested networks may enter."""
    write_volume(tmp_path / "train" / "x.nii", np.rot90(sample[1].chi_ppm.numpy()).copy() * 2, voxel_size_mm=(5.0, 5.0, 5.0))
    path = weights("stolen.safetensors", *folder_source(tmp_path / "train"))
    config = composed(path, f"data.root={release}", f"stage={stage}", "allow_unattested=true")
    with pytest.raises(InputError, match=r"volumes of unet: train/x\.nii shows the content of the truth Head"):
        evaluate(config, tmp_path / "out")
    assert not (tmp_path / "out" / "rows.json").exists()


def test_options_with_dashes_become_overrides():
    words = ["stage=1", "--allow-unattested", "--dialect", "corrected", "--cfg", "job"]
    assert as_overrides(words) == ["stage=1", "allow_unattested=true", "dialect=corrected", "--cfg", "job"]
    assert as_overrides(["--dialect=qsm-ci"]) == ["dialect=qsm-ci"]
