"""qsmdl simulate --from-toolbox: the challenge's scans, as evaluation data that stay out of training."""

import json

import pytest
import torch
from refused_commands import fails
from toolbox_samples import SHAPE, VOXEL_MM, write_toolbox

from qsmdl.challenge.cases import release_cases
from qsmdl.challenge.evaluation_data import VARIABLE, read_register
from qsmdl.challenge.guard import Admission, check_record
from qsmdl.cli.main import main
from qsmdl.data.sources import recipe_digest
from qsmdl.errors import InputError
from qsmdl.io.evaluation import MARK
from qsmdl.io.fingerprint import fingerprint_folder
from qsmdl.io.layouts import LAYOUTS, read_scan
from qsmdl.io.nifti import read_volume, write_volume
from qsmdl.io.provenance import folder_source, make_record, seal
from qsmdl.io.weights import save_weights
from qsmdl.networks.build import architecture_fingerprint, build_network

NETWORK = {"architecture": "unet", "keywords": {"width": 2, "depth": 1}}


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
    for layout in LAYOUTS:
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
