"""The qsmdl command on files."""

import gzip
import json
import shutil
import signal
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch

from qsmdl.cli.main import main
from qsmdl.io.weights import save_weights
from qsmdl.networks.build import build_network

NETWORK = {"architecture": "unet", "adapter": {"channels": ["field", "prior", "weight"]}, "keywords": {"width": 2, "depth": 1, "zero_head": True}}


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    main(["simulate", str(folder / "out"), "--seed", "3", "--voxel-size", "6", "--contrast", "sim2"])
    return folder / "out" / "Sim2"


@pytest.fixture
def scan(release, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(release, tmp_path / "Sim2")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(path, build_network(NETWORK).state_dict(), {"network": NETWORK, "prior": {"regularisations": [0.012, 0.003, 0.05]}})
    return path


def fails(capsys, *words, status=2):
    with pytest.raises(SystemExit) as stop:
        main([str(w) for w in words])
    assert stop.value.code == status
    return capsys.readouterr().err


def change(path, function):
    image = nib.load(path)
    nib.save(nib.Nifti1Image(function(image.get_fdata().copy()).astype(np.float32), image.affine, image.header), path)


def test_simulate_writes_a_release_with_truth(release):
    assert {p.name for p in release.iterdir()} == {
        "Frequency.nii.gz", "Magnitude.nii.gz", "Phase.nii.gz", "MaskBrainExtracted.nii.gz", "params.json", "recipe.json", "GT"
    }  # fmt: skip
    assert {p.name for p in (release / "GT").iterdir()} == {"Chi.nii.gz", "Segmentation.nii.gz"}
    recipe = json.loads((release / "recipe.json").read_text())
    assert recipe["seed"] == 3
    assert recipe["volume"]["contrast"] == "sim2"


def test_the_same_seed_writes_the_same_volumes(release, tmp_path):
    main(["simulate", str(tmp_path / "again"), "--seed", "3", "--voxel-size", "6", "--contrast", "sim2", "--no-truth"])
    assert not (tmp_path / "again" / "Sim2" / "GT").exists()
    for name in ("Phase", "Magnitude", "Frequency"):
        a, b = (nib.load(f / f"{name}.nii.gz").get_fdata() for f in (release, tmp_path / "again" / "Sim2"))
        assert np.array_equal(a, b)


@pytest.mark.parametrize("method", ["tkd", "l2", "tv", "unet", "fine"])
def test_methods_reconstruct_and_score(release, tmp_path, weights, method, capsys):
    target = tmp_path / f"{method}.nii.gz"
    settings = {"tv": ["n_iterations=20"], "fine": ["n_steps=3"]}.get(method, [])
    checkpoint = ["--checkpoint", str(weights)] if method in ("unet", "fine") else []
    main(["reconstruct", str(release), "--method", method, "-o", str(target), *checkpoint, *settings])
    told = json.loads(target.with_name(f"{method}.json").read_text())
    assert told["method"] == method
    assert told["stopped"]
    capsys.readouterr()
    ground = release / "GT"
    mask = release / "MaskBrainExtracted.nii.gz"
    main(
        [
            "score",
            str(target),
            "--truth",
            str(ground / "Chi.nii.gz"),
            "--mask",
            str(mask),
            "--segmentation",
            str(ground / "Segmentation.nii.gz"),
            "--json",
        ]
    )
    metrics = json.loads(capsys.readouterr().out)
    assert 5 < metrics["rmse"] < 160  # 6 mm voxels: a test of the plumbing, not of quality
    source, made = nib.load(mask), nib.load(target)
    assert np.array_equal(source.affine, made.affine)
    assert source.header["qform_code"] == made.header["qform_code"]
    assert not np.any(made.get_fdata()[source.get_fdata() == 0])
    # paramagnetic is positive: the reconstruction has the truth's sign
    inside = source.get_fdata() > 0
    assert np.corrcoef(made.get_fdata()[inside], nib.load(ground / "Chi.nii.gz").get_fdata()[inside])[0, 1] > 0.4


def test_a_field_map_in_any_unit(release, tmp_path, capsys):
    field, mask = release / "Frequency.nii.gz", release / "MaskBrainExtracted.nii.gz"
    maps = {}
    hz = nib.load(field)
    for units, factor, extra in [("hz", 1.0, []), ("ppm", 1 / (42.577 * 7), []), ("rad", 2 * np.pi * 0.004, ["--echo-time", "0.004"])]:
        path = tmp_path / f"{units}.nii"
        nib.save(nib.Nifti1Image((hz.get_fdata() * factor).astype(np.float32), hz.affine), path)
        main(
            [
                "reconstruct",
                "--field",
                str(path),
                "--units",
                units,
                "--mask",
                str(mask),
                "--method",
                "tkd",
                "-o",
                str(tmp_path / f"{units}_chi.nii"),
                *extra,
            ]
        )
        maps[units] = nib.load(tmp_path / f"{units}_chi.nii").get_fdata()
    assert np.allclose(maps["hz"], maps["ppm"], atol=1e-5)
    assert np.allclose(maps["hz"], maps["rad"], atol=1e-5)
    wrong = ["--field", tmp_path / "hz.nii", "--units", "ppm", "--mask", mask, "--method", "tkd", "-o", tmp_path / "wrong.nii"]
    assert "If the file holds Hz, say so" in fails(capsys, "reconstruct", *wrong)
    assert not (tmp_path / "wrong.nii").exists()


def test_without_params_the_protocol_is_assumed_aloud(scan, tmp_path, caplog):
    (scan / "params.json").unlink()
    main(["reconstruct", str(scan), "--method", "tkd", "-o", str(tmp_path / "chi.nii.gz")])
    assert "7" in caplog.text
    assert "params.json" in caplog.text


def test_outputs_are_not_overwritten_unasked(release, tmp_path, capsys):
    words = ["reconstruct", str(release), "--method", "tkd", "-o", str(tmp_path / "chi.nii.gz")]
    main(words)
    before = (tmp_path / "chi.nii.gz").read_bytes()
    assert "--overwrite" in fails(capsys, *words)
    assert (tmp_path / "chi.nii.gz").read_bytes() == before
    main([*words, "--overwrite", "threshold=0.1"])
    assert (tmp_path / "chi.nii.gz").read_bytes() != before
    assert "exists" in fails(capsys, "simulate", str(release.parent), "--contrast", "sim2", "--voxel-size", "6")


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "nan": (lambda s: change(s / "Phase.nii.gz", lambda v: np.where(v != 0, np.nan, v)), "Phase.*NaN"),
    "empty mask": (lambda s: change(s / "MaskBrainExtracted.nii.gz", np.zeros_like), "MaskBrainExtracted.*empty|no voxel"),
    "shape": (lambda s: change(s / "Magnitude.nii.gz", lambda v: v[:-1]), "Magnitude.*MaskBrainExtracted|MaskBrainExtracted.*Magnitude"),
    "truncated": (lambda s: truncate(s / "Phase.nii.gz"), "Phase.*(truncated|damaged|read)"),
    "3-D": (lambda s: change(s / "Phase.nii.gz", lambda v: v[..., 0]), "Phase.*(4|four)"),
    "missing": (lambda s: (s / "Phase.nii.gz").unlink(), "Phase"),
    "no echo times": (lambda s: (s / "params.json").write_text('{"B0": 7.0}'), "TE"),
    "echo times in ms": (lambda s: (s / "params.json").write_text('{"B0": 7.0, "TE": [4, 12, 20, 28]}'), "ms|seconds"),
    "not json": (lambda s: (s / "params.json").write_text("{"), "params.json"),
    "phase in integers": (lambda s: change(s / "Phase.nii.gz", lambda v: v * 1000), "Phase.*pi|Phase.*rad"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_scans_are_named(scan, tmp_path, capsys, what):
    damage, message = DAMAGE[what]
    damage(scan)
    error = fails(capsys, "reconstruct", scan, "--method", "tkd", "-o", tmp_path / "out" / "chi.nii.gz")
    assert __import__("re").search(message, error.replace("\n", " ")), error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_wrong_words_are_named(release, tmp_path, capsys, weights):
    out = ["-o", tmp_path / "chi.nii.gz"]
    assert "did you mean 'tkd'" in fails(capsys, "reconstruct", release, "--method", "tkdd", *out)
    assert "did you mean 'threshold'" in fails(capsys, "reconstruct", release, "--method", "tkd", "treshold=0.1", *out)
    assert "must be float" in fails(capsys, "reconstruct", release, "--method", "tkd", "threshold=high", *out)
    assert "threshold is 5" in fails(capsys, "reconstruct", release, "--method", "tkd", "threshold=5", *out)
    assert "has no setting '_target_'" in fails(capsys, "reconstruct", release, "--method", "tkd", "_target_=os.system", *out)
    assert "one scan folder" in fails(capsys, "reconstruct", "--method", "tkd", *out)
    assert "--units" in fails(capsys, "reconstruct", "--field", release / "Frequency.nii.gz", "--method", "tkd", *out)
    assert "neither in .nii" in fails(capsys, "reconstruct", release, "--method", "tkd", "-o", tmp_path / "chi.mha")
    assert "does not exist" in fails(capsys, "reconstruct", release, "--method", "unet", "--checkpoint", tmp_path / "none.safetensors", *out)
    assert "has no setting 'checkpoint'" in fails(capsys, "reconstruct", release, "--method", "tkd", "--checkpoint", weights, *out)
    assert "--device" in fails(capsys, "reconstruct", release, "--method", "tkd", "--device", "abacus", *out)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_none_are_refused(release, tmp_path, capsys, weights):
    pickle, renamed = tmp_path / "w.pt", tmp_path / "w.safetensors"
    torch.save({"a": torch.ones(1)}, pickle)
    torch.save({"a": torch.ones(1)}, renamed)
    for path in (pickle, renamed):
        error = fails(capsys, "reconstruct", release, "--method", "unet", "--checkpoint", path, "-o", tmp_path / "chi.nii.gz")
        assert "pickle" in error
    other = tmp_path / "other.safetensors"
    bigger = NETWORK | {"keywords": {"width": 4, "depth": 1, "zero_head": True}}
    save_weights(other, build_network(NETWORK).state_dict(), {"network": bigger, "prior": {"regularisations": [0.012, 0.003, 0.05]}})
    assert "another architecture" in fails(capsys, "reconstruct", release, "--method", "unet", "--checkpoint", other, "-o", tmp_path / "chi.nii.gz")


def test_score_names_grids_that_differ(release, tmp_path, capsys):
    ground = release / "GT"
    small = tmp_path / "small.nii"
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4)), small)
    error = fails(
        capsys,
        "score",
        small,
        "--truth",
        ground / "Chi.nii.gz",
        "--mask",
        release / "MaskBrainExtracted.nii.gz",
        "--segmentation",
        ground / "Segmentation.nii.gz",
    )
    assert "has the shape" in error


def test_score_prints_a_table(release, capsys):
    ground = release / "GT"
    chi, mask, labels = ground / "Chi.nii.gz", release / "MaskBrainExtracted.nii.gz", ground / "Segmentation.nii.gz"
    main(["score", str(chi), "--truth", str(chi), "--mask", str(mask), "--segmentation", str(labels)])
    assert "NRMSE" in capsys.readouterr().out


def test_interrupted_fine_goes_on(release, tmp_path, weights):
    """Ctrl-C on the real command: status 130, the state on disk, nothing else; the same command finishes."""
    target = tmp_path / "chi.nii.gz"
    words = ["reconstruct", str(release), "--method", "fine", "--checkpoint", str(weights), "-o", str(target)]
    endless = ["n_steps=100000", "learning_rate=0.0001", "patience=100000", "target=0.0"]
    command = [sys.executable, "-c", "from qsmdl.cli.main import main; main()", *words, *endless]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert any("fine on Sim2: step" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 130, error
    assert "State saved" in error
    assert [p.name for p in tmp_path.iterdir()] == ["chi.fine_state.safetensors"]
    main([*words, "n_steps=1"])
    assert target.exists()
    assert not (tmp_path / "chi.fine_state.safetensors").exists()


def test_gz_and_plain_are_one(scan, tmp_path):
    for path in scan.glob("*.nii.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    main(["reconstruct", str(scan), "--method", "tkd", "-o", str(tmp_path / "chi.nii")])
    assert (tmp_path / "chi.nii").stat().st_size > 1000
