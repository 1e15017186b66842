"""What a training leaves behind tells what it was trained on, over interruptions and new starts."""

import os

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from qsmdl.challenge.guard import check_record
from qsmdl.cli import train as train_module
from qsmdl.cli.build import config_folder
from qsmdl.errors import InputError
from qsmdl.io.nifti import write_volume
from qsmdl.io.provenance import links_of, seal_problem, volumes_of
from qsmdl.io.rc2 import write_release
from qsmdl.io.weights import load_weights, save_weights
from qsmdl.methods import load_network
from qsmdl.training.records import checkpoint_tensors

pytestmark = [
    pytest.mark.usefixtures("fast_heads"),
    pytest.mark.filterwarnings(
        "ignore::UserWarning:lightning", "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:.*does not have many workers"
    ),
]


def config(*overrides):
    small = ["data.validation.voxel_size_mm=[6.0,6.0]", "acquisition.voxel_size_mm=[6.0,6.0]", "training.n_steps=2", "training.validate_every=2"]
    with initialize_config_dir(version_base=None, config_dir=os.fspath(config_folder())):
        return compose("train", overrides=["debug=fast", *small, *overrides])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return {}


@pytest.fixture
def run(trained, tmp_path_factory):
    """The folder of a finished training, trained once for all tests."""
    if "folder" not in trained:
        trained["folder"] = tmp_path_factory.mktemp("run")
        train_module.fit(config(), trained["folder"])
    return trained["folder"]


def edited_checkpoint(run, target, edit):
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    edit(checkpoint)
    torch.save(checkpoint, target)
    return target


def test_weights_and_checkpoints_carry_their_record(run):
    tensors, card = load_weights(run / "weights.safetensors")
    assert check_record(card, tensors).clean
    record = card["record"]
    assert [(s["kind"], s["stream"], s["seed"], s["use"]) for s in record["sources"]] == [
        ("generator", "train", 0, "training"),
        ("generator", "validation", 0, "validation"),
    ]
    assert record["sources"][0]["recipe_digest"] == card["recipe_digest"]
    assert record["n_steps"] == 2
    for path in (run / "checkpoints").glob("*.ckpt"):
        checkpoint = torch.load(path, weights_only=True)
        assert seal_problem(checkpoint["record"], checkpoint_tensors(checkpoint)) is None
        assert "current_model_state" in checkpoint  # sealed after the averaged weights took their place


def test_a_resumed_run_carries_the_record_of_the_first(run, tmp_path):
    path = train_module.fit(config(f"resume={run / 'checkpoints' / 'last.ckpt'}", "training.n_steps=3"), tmp_path)
    tensors, card = load_weights(path)
    assert check_record(card, tensors).clean
    assert [link["n_steps"] for link in links_of(card["record"])] == [2, 3]


def test_a_run_that_starts_from_weights_carries_their_record(run, tmp_path):
    before, card = load_weights(run / "weights.safetensors")
    path = train_module.fit(config(f"start_from={run / 'weights.safetensors'}", "training.learning_rate=1e-12"), tmp_path)
    tensors, after = load_weights(path)
    assert check_record(after, tensors).clean
    assert links_of(after["record"])[0]["seal"] == card["record"]["seal"]
    trained = [name for name in before if "running_" not in name and "num_batches" not in name]  # batch norm's statistics move without learning
    assert len(trained) > 5
    assert all(torch.allclose(tensors[name], before[name], atol=1e-6) for name in trained)


def test_weights_in_16_bits_are_those_in_32_and_sealed_as_they_are(run, tmp_path):
    path = train_module.fit(config("training.half_weights=true"), tmp_path)
    tensors, card = load_weights(path)
    whole = load_weights(run / "weights.safetensors")[0]
    assert check_record(card, tensors).clean
    assert path.stat().st_size < 0.75 * (run / "weights.safetensors").stat().st_size
    for name, tensor in tensors.items():
        assert tensor.dtype == (torch.float16 if whole[name].ndim > 1 else whole[name].dtype)
        torch.testing.assert_close(tensor, whole[name].to(tensor.dtype), atol=0, rtol=0)
    network = load_network(path)[0]
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    again = train_module.fit(config(f"start_from={path}", "training.learning_rate=1e-12"), tmp_path / "again")
    assert check_record(*reversed(load_weights(again))).clean


REMEDY = r"may not be trained on: .*guard\.allow_unattested=true"


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda c: c.pop("record"), "no record"),
        (lambda c: c["record"].update(n_steps=1), "changed after it was sealed"),
        (lambda c: c["state_dict"]["network.scale"].add_(1), "weights are not those"),
        (lambda c: c["current_model_state"]["network.scale"].add_(1), "weights are not those"),
    ],
)
def test_checkpoints_without_a_good_record_are_refused(run, tmp_path, edit, reason):
    path = edited_checkpoint(run, tmp_path / "other.ckpt", edit)
    with pytest.raises(InputError, match=rf"other\.ckpt {REMEDY}") as error:
        train_module.fit(config(f"resume={path}", "training.n_steps=3"), tmp_path / "run")
    assert reason in str(error.value)
    assert not (tmp_path / "run").exists()


def test_who_goes_on_nevertheless_is_marked(run, tmp_path):
    path = edited_checkpoint(run, tmp_path / "other.ckpt", lambda c: c.pop("record"))
    new = train_module.fit(config(f"resume={path}", "training.n_steps=3", "guard.allow_unattested=true"), tmp_path / "run")
    found = check_record(*reversed(load_weights(new)))
    assert not found.clean
    assert "went on from a checkpoint that is not attested: it carries no record" in found.reason


@pytest.mark.parametrize("allowed", [True, False])
def test_weights_that_were_marked_knowingly_are_scored_in_the_end(tmp_path, monkeypatch, allowed):
    seen = []
    monkeypatch.setattr(train_module, "fit", lambda config, folder: folder / "weights.safetensors")
    monkeypatch.setattr(train_module, "evaluate", lambda config, folder: seen.append(config.allow_unattested))
    train_module.train(config(f"guard.allow_unattested={str(allowed).lower()}", "evaluate=true"), tmp_path)
    assert seen == [allowed]


def test_weights_without_a_record_are_refused(run, tmp_path):
    tensors, card = load_weights(run / "weights.safetensors")
    save_weights(tmp_path / "bare.safetensors", tensors, {k: v for k, v in card.items() if k != "record"})
    with pytest.raises(InputError, match=rf"bare\.safetensors {REMEDY}"):
        train_module.fit(config(f"start_from={tmp_path / 'bare.safetensors'}"), tmp_path / "run")
    with pytest.raises(InputError, match="name one"):
        train_module.fit(config(f"start_from={tmp_path / 'bare.safetensors'}", f"resume={tmp_path / 'bare.safetensors'}"), tmp_path / "run")


@pytest.fixture
def release(tmp_path, sample):
    write_release(tmp_path / "R" / "Sim2", *sample)
    return tmp_path / "R"


def test_declared_volumes_are_recorded_and_compared(tmp_path, release, sample):
    values = np.zeros((33, 41, 41), np.float32)
    values[6:27, 5:36, 7:35] = np.random.default_rng(0).normal(0, 0.05, (21, 31, 28))
    write_volume(tmp_path / "mine" / "own.nii.gz", values, voxel_size_mm=(5.0, 5.0, 5.0))
    overrides = [f"guard.folders=[{tmp_path / 'mine'}]", f"guard.releases=[{release}]", "guard.n_previews=0"]
    tensors, card = load_weights(train_module.fit(config(*overrides), tmp_path / "run"))
    assert check_record(card, tensors).clean
    assert [v.name for v in volumes_of(card["record"])] == ["mine/own.nii.gz"]

    write_volume(tmp_path / "mine" / "stolen.nii", sample[1].chi_ppm.flip(0) * 2 + 1, voxel_size_mm=(5.0, 5.0, 5.0))
    with pytest.raises(InputError, match=r"volumes of this training: stolen\.nii shows the content of the truth .*R/Sim2 \(correlation"):
        train_module.fit(config(*overrides), tmp_path / "run2")
    assert not (tmp_path / "run2").exists()


def test_generated_heads_are_compared(tmp_path, release, monkeypatch, sample):
    """A generator that hands out the truth's head is stopped at once; the real one is not."""
    from qsmdl.cli import records

    class Head:
        chi_ppm = sample[1].chi_ppm

    monkeypatch.setattr(records, "PREVIEW_MM", 5.0)
    monkeypatch.setattr(records, "preview_head", lambda *_, **__: Head)
    with pytest.raises(InputError, match="generated head 0 holds exactly the values of the truth"):
        train_module.fit(config(f"guard.releases=[{release}]", "guard.n_previews=1"), tmp_path / "run")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("guard.folders=[nowhere]", "nowhere is not a folder"),
        ("guard.releases=[nowhere]", "nowhere is not a folder"),
        ("guard.n_previews=-1", "n_previews is -1"),
        ("guard.n_previews=many", "guard.n_previews is 'many'"),
        ("guard.folders=mine", "guard.folders is 'mine'"),
    ],
)
def test_wrong_settings_are_named(tmp_path, override, message):
    with pytest.raises(InputError, match=message):
        train_module.fit(config(override), tmp_path / "run")
