"""qsmdl simulate --layout and --stage: the same numbers everywhere."""

import dataclasses
import functools
import json
import shutil

import numpy as np
import pytest
import torch
from refused_commands import fails

from qsmdl.challenge.cases import draw_release, release_cases
from qsmdl.challenge.release import find_scans
from qsmdl.challenge.truth import read_truth
from qsmdl.cli.main import main
from qsmdl.data.inputs import Prior
from qsmdl.data.recipe import Recipe, draw_volume, render_phantom, render_volume, scan_phantom, volume_seed
from qsmdl.data.sources import recipe_digest
from qsmdl.data.stream import training_volume
from qsmdl.errors import InputError
from qsmdl.io.layouts import read_scan
from qsmdl.io.nifti import read_volume
from qsmdl.phantom.scanning.local_field import local_field
from qsmdl.physics.dipole import Dipole
from qsmdl.physics.fieldmap import fit_field
from qsmdl.physics.fourier import crop_kspace

SEED = 3
PLACES = {"rc2": "rc2/Sim1", "bids": "bids/sub-Sim1", "qsm-ci": "qsm-ci/Sim1"}
RECIPES = {"rc2": "rc2/Sim1/recipe.json", "bids": "bids/sourcedata/sub-Sim1/recipe.json", "qsm-ci": "qsm-ci/Sim1/recipe.json"}


@functools.cache
def _rendered(recipe, head):
    return render_phantom(recipe, head)


def cached_head(recipe, params):
    """Heads are rendered once: noise and names do not change them."""
    return _rendered(dataclasses.replace(recipe, peak_snr=(1.0, 1.0)), dataclasses.replace(params, noise_seed=0, peak_snr=1.0, name=""))


@pytest.fixture(scope="module", autouse=True)
def fast_simulate():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qsmdl.cli.simulation.render_phantom", cached_head)
        yield


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """One head in three layouts."""
    out = tmp_path_factory.mktemp("three") / "out"
    main(["simulate", str(out), "--seed", str(SEED), "--voxel-size", "6", "--contrast", "sim1", "--layout", "rc2,bids,qsm-ci"])
    return out


@pytest.fixture(scope="module")
def drawn():
    """The same volume as the stream of training data draws it."""
    recipe = Recipe(contrast="sim1", voxel_size_mm=(6.0, 6.0), peak_snr=(100.0, 100.0))
    params = draw_volume(recipe, volume_seed("test", SEED, 0))
    return recipe, params, *render_volume(recipe, params)


@pytest.mark.parametrize("layout", PLACES)
def test_every_layout_holds_the_numbers_of_the_stream(three, drawn, layout):
    _, _, scan, truth = drawn
    again, known = read_scan(three / PLACES[layout]), read_truth(three / PLACES[layout])
    for name in ("phase_rad", "magnitude", "mask"):
        assert torch.equal(getattr(again, name), getattr(scan, name)), name
    assert torch.equal(known.chi_ppm, truth.chi_ppm)
    assert torch.equal(known.labels, truth.labels)
    assert again.echo_times_s == scan.echo_times_s
    assert again.geometry.voxel_size_mm == pytest.approx(scan.geometry.voxel_size_mm)
    assert again.geometry.b0_direction == scan.geometry.b0_direction
    assert again.name == "Sim1"
    streamed, reread = (training_volume(*pair, Prior()) for pair in ((scan, truth), (again, known)))
    for name, volume in streamed.items():
        torch.testing.assert_close(reread[name], volume, rtol=1e-4, atol=1e-6, msg=name)


def test_every_layout_carries_one_recipe(three, drawn):
    recipe, params, *_ = drawn
    told = {layout: json.loads((three / path).read_text()) for layout, path in RECIPES.items()}
    assert told["rc2"] == told["bids"] == told["qsm-ci"]
    content = told["rc2"]
    assert content["recipe_digest"] == recipe.digest == recipe_digest(content["recipe"])
    assert content["seed"] == SEED
    assert content["volume"] == json.loads(json.dumps(dataclasses.asdict(dataclasses.replace(params, name="Sim1"))))
    for sidecar in (three / "bids" / "sub-Sim1").rglob("*.json"):
        assert json.loads(sidecar.read_text())["SimulatedBy"]["recipe_digest"] == recipe.digest
    phase = json.loads((three / "bids/sub-Sim1/anat/sub-Sim1_echo-2_part-phase_MEGRE.json").read_text())
    assert (phase["EchoTime"], phase["RepetitionTime"], phase["FlipAngle"]) == (0.012, 0.05, 15.0)


def test_the_true_field_is_that_of_the_scan(three, drawn):
    """Against the fine field, cropped; and against a fit of the scan without noise, which at 6 mm also sees how signal and field vary in a voxel."""
    recipe, params, _, truth = drawn
    field, _ = read_volume(three / "qsm-ci" / "Sim1" / "groundtruth" / "localfield")
    phantom, silent = cached_head(recipe, params), dataclasses.replace(params, peak_snr=1e6)
    quiet, _ = scan_phantom(recipe, silent, phantom)
    fitted = fit_field(quiet)
    inside = truth.mask & (fitted.weight > fitted.weight[truth.mask].median())
    a, b = field[inside], fitted.field_ppm[inside]
    assert float(torch.corrcoef(torch.stack([a, b]))[0, 1]) > 0.95
    assert float((a - b).median().abs()) < 0.1 * float(a.std())
    fine = crop_kspace(Dipole.of(phantom.geometry, 2.0)(phantom.chi_ppm), truth.geometry.shape).real
    torch.testing.assert_close(field[truth.mask], fine[truth.mask], rtol=0, atol=0.02 * float(a.std()))
    assert torch.equal(field, torch.where(truth.mask, local_field(phantom, truth.geometry), 0.0))


@pytest.mark.parametrize("layout", ["bids", "qsm-ci"])
def test_every_layout_can_be_reconstructed_and_scored(three, tmp_path, layout):
    maps = []
    for number, place in enumerate((PLACES["rc2"], PLACES[layout])):
        target = tmp_path / f"{number}.nii.gz"
        main(["reconstruct", str(three / place), "--method", "tkd", "-o", str(target)])
        maps.append(read_volume(target)[0])
    torch.testing.assert_close(maps[1], maps[0], rtol=1e-4, atol=1e-6)
    (case,) = release_cases(root=three / layout)
    assert case.name == "Sim1"
    assert case.truth is not None
    assert torch.equal(case.truth.chi_ppm, read_truth(three / PLACES["rc2"]).chi_ppm)
    (found,) = find_scans(three / PLACES[layout], stage=1)
    assert (found.name, found.has_truth) == ("Sim1", True)


def test_inputs_without_echoes_are_reconstructed(three, tmp_path, capsys):
    mounted = tmp_path / "input"
    mounted.mkdir()
    for name in ("groundtruth/localfield.nii.gz", "inputs/mask.nii.gz", "inputs/params.json"):
        shutil.copy(three / "qsm-ci" / "Sim1" / name, mounted)
    main(["reconstruct", str(mounted), "--method", "tkd", "-o", str(tmp_path / "chi.nii.gz")])
    truth = read_truth(three / PLACES["rc2"])
    chi = read_volume(tmp_path / "chi.nii.gz")[0]
    assert np.corrcoef(chi[truth.mask], truth.chi_ppm[truth.mask])[0, 1] > 0.7
    with pytest.raises(SystemExit):
        main(["reconstruct", str(mounted), "--method", "tkd", "--remove-offset", "-o", str(tmp_path / "other.nii.gz")])
    assert "no echoes" in capsys.readouterr().err.replace("\n", " ")


def test_two_copies_of_a_scan_are_told_apart(three):
    with pytest.raises(InputError, match="two scans Sim1"):
        find_scans(three)


def test_one_layout_needs_no_folder_of_its_own(tmp_path, capsys):
    words = ["simulate", tmp_path / "b", "--seed", SEED, "--voxel-size", "6", "--contrast", "sim1", "--layout", "bids", "--no-truth"]
    main([str(word) for word in words])
    assert (tmp_path / "b" / "dataset_description.json").is_file()
    assert not list(tmp_path.rglob("*_Chimap.nii.gz"))
    assert not find_scans(tmp_path / "b")[0].has_truth
    assert "--overwrite" in fails(capsys, *words)
    main([*map(str, words), "--overwrite"])


def test_stage_2_has_both_noise_levels_and_one_truth_apart(tmp_path):
    out = tmp_path / "out"
    main(["simulate", str(out), "--seed", str(SEED), "--voxel-size", "6", "--contrast", "sim1", "--stage", "2"])
    assert {path.name for path in out.iterdir()} == {"Sim1Snr1", "Sim1Snr2", "Sim1GT"}
    assert {path.name for path in (out / "Sim1GT").iterdir()} == {"Chi.nii.gz", "Segmentation.nii.gz"}
    scans = [read_scan(out / name) for name in ("Sim1Snr1", "Sim1Snr2")]
    told = [json.loads((out / scan.name / "recipe.json").read_text()) for scan in scans]
    assert [content["volume"]["peak_snr"] for content in told] == [100.0, 1000.0]
    assert told[0]["volume"]["noise_seed"] != told[1]["volume"]["noise_seed"]
    assert torch.equal(read_truth(out / "Sim1Snr1").chi_ppm, read_truth(out / "Sim1Snr2").chi_ppm)
    found = find_scans(out, stage=2)
    assert [(scan.name, scan.level, scan.has_truth) for scan in found] == [("Sim1Snr1", "Snr1", True), ("Sim1Snr2", "Snr2", True)]
    drawn = draw_release(2, voxel_size_mm=6.0, contrasts=["sim1"], seed=SEED)  # what evaluate.py stage=2 simulates for itself
    assert [content["volume"] for content in told] == [json.loads(json.dumps(dataclasses.asdict(params))) for _, params in drawn]
    again, truth = scan_phantom(*drawn[1], cached_head(*drawn[1]))
    assert torch.equal(scans[1].phase_rad, again.phase_rad)
    assert torch.equal(read_truth(out / "Sim1Snr2").chi_ppm, truth.chi_ppm)


def test_wrong_words_are_named(tmp_path, capsys):
    out = tmp_path / "out"
    assert "--layout is 'rc2,nii'" in fails(capsys, "simulate", out, "--layout", "rc2,nii")
    assert "each once" in fails(capsys, "simulate", out, "--layout", "bids,bids")
    assert "--orientations belongs to the layout rc2 alone" in fails(capsys, "simulate", out, "--layout", "bids", "--orientations", "2")
    assert "--conventions belongs" in fails(capsys, "simulate", out, "--layout", "rc2,bids", "--conventions")
    assert "one orientation" in fails(capsys, "simulate", out, "--from-toolbox", tmp_path, "--orientations", "2")
    assert "not the toolbox's data" in fails(capsys, "simulate", out, "--from-toolbox", tmp_path)
    assert "--voxel-size is -1" in fails(capsys, "simulate", out, "--voxel-size", "-1")
    assert not out.exists()
