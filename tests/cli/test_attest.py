import numpy as np
import pytest
import torch
from refused_commands import fails

from qsmdl.cli.attest import declare
from qsmdl.cli.main import main
from qsmdl.data.recipe import Recipe
from qsmdl.errors import InputError
from qsmdl.io.nifti import write_volume
from qsmdl.io.rc2 import write_release
from qsmdl.io.weights import load_weights, save_weights
from qsmdl.networks.build import build_network

SETTINGS = {"architecture": "unet", "keywords": {"width": 2, "depth": 1}}
CARD = {"network": SETTINGS, "prior": {"regularisations": [0.012, 0.003, 0.05]}}
GENERATOR = {"recipe": Recipe().to_plain(), "recipe_digest": Recipe().digest, "training": {"seed": 3, "steps_done": 40}}


@pytest.fixture
def weights(tmp_path):
    """Makes a file of weights with a card."""

    def make(card):
        torch.manual_seed(0)
        save_weights(tmp_path / "w.safetensors", build_network(SETTINGS).state_dict(), card, overwrite=True)
        return str(tmp_path / "w.safetensors")

    return make


@pytest.fixture
def volumes(tmp_path):
    values = np.zeros((33, 41, 41), np.float32)
    values[6:27, 5:36, 7:35] = np.random.default_rng(0).normal(0, 0.05, (21, 31, 28))
    write_volume(tmp_path / "mine" / "a.nii.gz", values, voxel_size_mm=(5.0, 5.0, 5.0))
    return tmp_path / "mine"


def test_an_old_card_is_given_its_record(weights, tmp_path, capsys):
    old = weights(CARD | GENERATOR)
    assert "no record" in fails(capsys, "attest", old)
    main(["attest", old, "-o", str(tmp_path / "new.safetensors")])
    main(["attest", str(tmp_path / "new.safetensors")])
    assert "declared afterwards, names generated phantoms only" in capsys.readouterr().err
    tensors, card = load_weights(tmp_path / "new.safetensors")
    source = card["record"]["sources"][0]
    assert (source["stream"], source["seed"], source["n_volumes"], source["recipe_digest"]) == ("train", 3, 40, Recipe().digest)
    assert all(torch.equal(t, load_weights(old)[0][n]) for n, t in tensors.items())
    assert {k: v for k, v in card.items() if k != "record"} == load_weights(old)[1]


def test_weights_from_elsewhere_name_their_volumes(weights, volumes, tmp_path, capsys, sample):
    """A network that was trained outside qsmdl on own volumes enters by naming them; a truth among them is found."""
    write_release(tmp_path / "R" / "Sim2", *sample)
    other, target = weights(CARD), tmp_path / "new.safetensors"
    main(["attest", other, "--volumes", str(volumes), "--release", str(tmp_path / "R"), "-o", str(target)])
    assert "names 1 volumes" in capsys.readouterr().err
    write_volume(volumes / "b.nii", sample[1].chi_ppm.transpose(0, 1) * 4, voxel_size_mm=(5.0, 5.0, 5.0))
    error = fails(capsys, "attest", other, "--volumes", volumes, "--release", tmp_path / "R", "-o", tmp_path / "never.safetensors")
    assert "mine/b.nii shows the content of the truth" in error
    assert not (tmp_path / "never.safetensors").exists()


def test_a_record_is_not_replaced(weights, tmp_path, capsys):
    main(["attest", weights(CARD | GENERATOR), "-o", str(tmp_path / "new.safetensors")])
    capsys.readouterr()
    assert "a record already" in fails(capsys, "attest", tmp_path / "new.safetensors", "-o", tmp_path / "newer.safetensors")
    assert "--overwrite" in fails(capsys, "attest", weights(CARD | GENERATOR), "-o", tmp_path / "new.safetensors")


def test_what_cannot_be_attested_is_told(weights, volumes, tmp_path, capsys):
    out = ["-o", tmp_path / "new.safetensors"]
    assert "--volumes FOLDER" in fails(capsys, "attest", weights(CARD), *out)
    assert "one of them was changed" in fails(capsys, "attest", weights(CARD | GENERATOR | {"recipe_digest": "0"}), *out)
    assert "'steps_done'" in fails(capsys, "attest", weights(CARD | GENERATOR | {"training": {"seed": 3}}), *out)
    assert "'network'" in fails(capsys, "attest", weights({"prior": {}}), "--volumes", volumes, *out)
    assert "say with -o" in fails(capsys, "attest", weights(CARD), "--volumes", volumes)
    assert "is not a folder" in fails(capsys, "attest", weights(CARD), "--volumes", tmp_path / "none", *out)
    assert not (tmp_path / "new.safetensors").exists()


def test_an_unknown_setting_of_the_recipe_is_named():
    with pytest.raises(InputError, match="cannot be attested"):
        declare(CARD | GENERATOR | {"recipe": {"colour": "red"}}, {})
