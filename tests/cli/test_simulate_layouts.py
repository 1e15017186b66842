"""qsmdl simulate --layout, --stage and --from-toolbox: the same numbers everywhere, and evaluation data that stay out of training."""

import dataclasses
import functools
import json
import shutil

import numpy as np
import pytest
import torch
from toolbox_samples import SHAPE, VOXEL_MM, write_toolbox

from qsmdl.challenge.cases import draw_release, release_cases
from qsmdl.challenge.evaluation_data import VARIABLE, read_register
from qsmdl.challenge.guard import Admission, check_record
from qsmdl.challenge.release import find_scans
from qsmdl.challenge.truth import read_truth
from qsmdl.cli.main import main
from qsmdl.data.inputs import Prior
from qsmdl.data.recipe import Recipe, draw_volume, render_phantom, render_volume, scan_phantom, volume_seed
from qsmdl.data.sources import recipe_digest
from qsmdl.data.stream import training_volume
from qsmdl.errors import InputError
from qsmdl.io.evaluation import MARK
from qsmdl.io.fingerprint import fingerprint_folder
from qsmdl.io.layouts import read_scan
from qsmdl.io.nifti import read_volume, write_volume
from qsmdl.io.provenance import folder_source, make_record, seal
from qsmdl.io.weights import save_weights
from qsmdl.networks.build import architecture_fingerprint, build_network
from qsmdl.phantom.local_field import local_field
from qsmdl.physics.dipole import Dipole
from qsmdl.physics.fieldmap import fit_field
from qsmdl.physics.fourier import crop_kspace

SEED = 3
PLACES = {"rc2": "rc2/Sim1", "bids": "bids/sub-Sim1", "qsm-ci": "qsm-ci/Sim1"}
RECIPES = {"rc2": "rc2/Sim1/recipe.json", "bids": "bids/sourcedata/sub-Sim1/recipe.json", "qsm-ci": "qsm-ci/Sim1/recipe.json"}
NETWORK = {"architecture": "unet", "keywords": {"width": 2, "depth": 1}}


def fails(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert stop.value.code == 2
    return capsys.readouterr().err.replace("\n", " ")


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


def test_inputs_without_echoes_are_reconstructed(three, tmp_path):
    mounted = tmp_path / "input"
    mounted.mkdir()
    for name in ("groundtruth/localfield.nii.gz", "inputs/mask.nii.gz", "inputs/params.json"):
        shutil.copy(three / "qsm-ci" / "Sim1" / name, mounted)
    main(["reconstruct", str(mounted), "--method", "tkd", "-o", str(tmp_path / "chi.nii.gz")])
    truth = read_truth(three / PLACES["rc2"])
    chi = read_volume(tmp_path / "chi.nii.gz")[0]
    assert np.corrcoef(chi[truth.mask], truth.chi_ppm[truth.mask])[0, 1] > 0.7


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


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """Scans of a toolbox's head in three layouts, and the register that they are in."""
    folder = tmp_path_factory.mktemp("evaluation")
    toolbox = write_toolbox(folder / "toolbox")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(folder / "register"))
        main(["simulate", str(folder / "out"), "--voxel-size", "5", "--from-toolbox", str(toolbox), "--layout", "rc2,bids,qsm-ci"])
        yield folder


def test_a_toolbox_becomes_the_challenges_scans(evaluation):
    shape = tuple(round(n * VOXEL_MM / 5) for n in SHAPE)
    names = ["Sim1Snr1", "Sim1Snr2", "Sim2Snr1", "Sim2Snr2"]
    for layout in PLACES:
        cases = release_cases(root=evaluation / "out" / layout)
        assert [case.name for case in cases] == names
        assert all(case.truth is not None and case.field.geometry.shape == shape for case in cases)
        assert all(case.scan.echo_times_s == (0.004, 0.012, 0.02, 0.028) for case in cases)
    told = [json.loads((evaluation / "out/rc2" / name / "recipe.json").read_text()) for name in names]
    assert [content["recipe"]["peak_snr"] for content in told] == [100.0, 1000.0] * 2
    assert len({content["volume"]["noise_seed"] for content in told}) == 4
    assert all(content["recipe_digest"] == recipe_digest(content["recipe"]) for content in told)
    assert all((content["recipe"]["repetition_time_s"], content["recipe"]["flip_angle_deg"]) == (0.05, 15.0) for content in told)
    noise = [float((c.scan.magnitude[0] - d.scan.magnitude[0])[c.scan.mask].std()) for c, d in (cases[:2], cases[2:])]
    assert all(0.5 < deviation / (float(cases[1].scan.magnitude[0].max()) / 100) < 3 for deviation in noise)


def test_the_written_folders_are_marked(evaluation):
    out = evaluation / "out"
    for place in ("rc2/Sim1Snr1", "rc2/Sim2Snr2", "rc2/Sim1GT", "rc2/Sim2GT", "bids", "qsm-ci/Sim1Snr1"):
        assert (out / place / MARK).is_file(), place
        assert "no network may be trained" in (out / place / MARK).read_text()
    assert (out / "bids" / ".bidsignore").read_text() == f"{MARK}\n"
    scans = [f"Sim{number}Snr{level} of the toolbox, its echoes" for number in (1, 2) for level in (1, 2)]
    assert sorted(entry.name for entry in read_register()) == sorted(["Sim1 of the toolbox", "Sim2 of the toolbox", *scans])


INSIDE_BIDS = ("out/bids/sub-Sim1Snr1/anat", "out/bids/derivatives")


@pytest.mark.parametrize("place", ["out", "out/rc2/Sim2GT", "out/rc2/Sim1Snr1", *INSIDE_BIDS, "out/qsm-ci/Sim2Snr1/groundtruth"])
def test_a_marked_folder_is_not_recorded(evaluation, place):
    """Above the mark, beside it and below it: train.py and qsmdl attest make every record through this."""
    with pytest.raises(InputError, match=r"may not be trained on.*evaluation data"):
        folder_source(evaluation / place)


def unmarked(evaluation, tmp_path, change=lambda v: v, source="out/rc2/Sim2GT/Chi"):
    """A copy under another name, its mark left behind."""
    volume, header = read_volume(evaluation / source)
    write_volume(tmp_path / "mine" / "subject17.nii.gz", change(volume), voxel_size_mm=header.voxel_size_mm)
    return tmp_path / "mine"


DISGUISES = {
    "renamed": lambda v: v,
    "rescaled": lambda v: -37.5 * v,
    "turned, mirrored and rescaled": lambda v: 300 * v.transpose(0, 1).flip(2),
    "cropped and offset": lambda v: torch.where(v != 0, v + 0.4, 0.0)[:, :30],
}


def card_of(folder):
    tensors = build_network(NETWORK).state_dict()
    source, prints = folder_source(folder)
    record = make_record([source], architecture=architecture_fingerprint(NETWORK), fingerprints=prints, made_by="declaration")
    return {"network": NETWORK, "prior": {"regularisations": [0.012, 0.003, 0.05]}, "record": seal(record, tensors)}, tensors


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_disguised_copy_is_refused_wherever_it_is_declared(evaluation, tmp_path, disguise):
    """A record that names it as somebody's own data is sealed and whole, and yet the network may not be judged."""
    folder = unmarked(evaluation, tmp_path, DISGUISES[disguise])
    card, tensors = card_of(folder)
    assert check_record(card, tensors).clean
    admission = Admission({"unet": True}, {"unet": fingerprint_folder(folder)})
    with pytest.raises(InputError, match=r"volumes of unet: .*subject17.*Sim[12].* of the toolbox"):
        admission.check_truths({})


def test_sim1_of_the_head_gives_sim2_away(evaluation, tmp_path):
    """Only Sim1 is copied, and its mask: both are registered."""
    folder = unmarked(evaluation, tmp_path, source="out/rc2/Sim1Snr2/MaskBrainExtracted")
    with pytest.raises(InputError, match="is exactly the mask"):
        Admission({}, {"unet": fingerprint_folder(folder)}).check_truths({})


ECHOES = {
    "magnitude, rescaled": lambda scan: 3.0 * scan.magnitude[0],
    "field map, rescaled": lambda scan: -7.0 * scan.frequency_ppm * scan.mask,
    "phase of the last echo": lambda scan: scan.phase_rad[-1],
    "magnitude of the last echo": lambda scan: scan.magnitude[-1],
}


@pytest.mark.parametrize("what", ECHOES)
def test_copies_of_the_scans_are_found(evaluation, tmp_path, what):
    scan = read_scan(evaluation / "out" / "bids" / "sub-Sim2Snr2")
    write_volume(tmp_path / "mine" / "subject17.nii.gz", ECHOES[what](scan), voxel_size_mm=scan.geometry.voxel_size_mm)
    with pytest.raises(InputError, match=r"subject17.*of the toolbox"):
        Admission({}, {"unet": fingerprint_folder(tmp_path / "mine")}).check_truths({})


def test_weights_trained_on_a_copy_are_not_attested(evaluation, tmp_path, capsys):
    folder = unmarked(evaluation, tmp_path, DISGUISES["rescaled"])
    torch.manual_seed(0)
    weights = tmp_path / "w.safetensors"
    save_weights(weights, build_network(NETWORK).state_dict(), {"network": NETWORK, "prior": {"regularisations": [0.012]}})
    out = tmp_path / "attested.safetensors"
    assert "evaluation data" in fails(capsys, "attest", weights, "--volumes", folder, "-o", out)
    assert "may not be trained on" in fails(capsys, "attest", weights, "--volumes", evaluation / "out/rc2", "-o", out)
    assert not out.exists()


def test_a_register_that_cannot_be_written_stops_the_simulation(evaluation, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file" / "register"))
    words = ["simulate", tmp_path / "out", "--from-toolbox", evaluation / "toolbox", "--voxel-size", "5", "--contrast", "sim1", "--stage", "1"]
    assert "must be registered before it is written" in fails(capsys, *words)
    assert not (tmp_path / "out").exists()


def test_models_that_do_not_fit_the_protocol(evaluation, tmp_path, capsys):
    words = ["simulate", tmp_path / "out", "--from-toolbox", evaluation / "toolbox", "--contrast", "sim1"]
    assert "--voxel-size 1 mm does not fit" in fails(capsys, *words)
    missing = write_toolbox(tmp_path / "half", without=("chimodel/ChiModelMIX_noCalc.nii",))
    assert "no susceptibility of Sim1" in fails(capsys, "simulate", tmp_path / "out", "--from-toolbox", missing, "--voxel-size", "5")
    assert not (tmp_path / "out").exists()
