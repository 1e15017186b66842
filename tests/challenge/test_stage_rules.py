"""The rules between the stages: architectures, tuning against the truth, kinds of method."""

import json
import shutil

import pytest
import torch
from small_releases import STAGE_1, STAGE_2, with_calcification, write_scans
from staged_runs import TKD, TV, plan, run

from qsmdl.about import about
from qsmdl.challenge.choosing import TuningSettings, choose, levels, make_objective, settings_by_scan
from qsmdl.challenge.maps import MapStore
from qsmdl.challenge.release import find_scans
from qsmdl.challenge.rules import check_search
from qsmdl.challenge.stages import Events, check_scans
from qsmdl.challenge.tuning import TrialTooLong
from qsmdl.errors import InputError
from qsmdl.io.weights import save_weights
from qsmdl.methods import Method, fine, unet
from qsmdl.networks.build import architecture_fingerprint, build_network
from qsmdl.solvers.direct import l2

NETWORK = {"architecture": "unet", "adapter": {"channels": ["field", "prior", "weight"]}, "keywords": {"width": 2, "depth": 1, "zero_head": True}}


@pytest.fixture(scope="module")
def releases(tmp_path_factory, sample):
    root = tmp_path_factory.mktemp("releases")
    write_scans(root / "one", sample, STAGE_1)
    write_scans(root / "two", sample, STAGE_2)
    return root


@pytest.fixture
def release(releases, tmp_path):
    """A copy of stage 1 that a test may damage."""
    return shutil.copytree(releases / "one", tmp_path / "release")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Two networks of one architecture, and one of another."""
    folder = tmp_path_factory.mktemp("weights")
    for index, (name, changes) in enumerate({"a": {}, "b": {}, "wide": {"width": 3}}.items()):
        network = NETWORK | {"keywords": NETWORK["keywords"] | changes}
        torch.manual_seed(index)
        card = {"network": network, "prior": {"regularisations": [0.012, 0.003, 0.05]}}
        save_weights(folder / f"{name}.safetensors", build_network(network).state_dict(), card)
    return {path.stem: path for path in folder.iterdir()}


def test_architectures_must_stay(releases, tmp_path, weights):
    def network(name, checkpoint, function=unet):
        return Method(name, function, checkpoint=str(weights[checkpoint]))

    run(releases / "one", tmp_path / "one", (TKD, network("unet", "a")), attested={"unet": False})
    stage1 = tmp_path / "one" / "protocol.json"
    fingerprint = architecture_fingerprint(NETWORK)
    entry = json.loads(stage1.read_text())["methods"]["unet"]
    assert (entry["architecture"], entry["kind"], entry["attested"]) == (fingerprint, "deep learning", False)

    rows = run(releases / "two", tmp_path / "two", (network("unet", "b"),), stage=2, stage1=stage1)
    assert {row["kind"] for row in rows} == {"deep learning"}
    assert len(rows) == 4

    wide = architecture_fingerprint(NETWORK | {"keywords": NETWORK["keywords"] | {"width": 3}})
    with pytest.raises(InputError, match=rf"architecture of unet has changed since stage 1: its fingerprint was {fingerprint} .* is now {wide}"):
        run(releases / "two", tmp_path / "three", (network("unet", "wide"),), stage=2, stage1=stage1)
    with pytest.raises(InputError, match=r"fine was not among the networks of stage 1"):
        run(releases / "two", tmp_path / "three", (network("fine", "a", fine),), stage=2, stage1=stage1)
    with pytest.raises(InputError, match=r"name its protocol\.json as stage1=PATH"):
        run(releases / "two", tmp_path / "three", (network("unet", "a"),), stage=2)
    with pytest.raises(InputError, match=r"is not the protocol of a stage-1 run"):
        run(releases / "two", tmp_path / "three", (network("unet", "a"),), stage=2, stage1=tmp_path / "two" / "protocol.json")
    assert not (tmp_path / "three").exists()


def test_weights_that_change_while_a_run_goes_on_are_noticed(releases, tmp_path, weights):
    """Stage 2 tunes for hours: another training may have written its weights over those that were admitted."""
    shutil.copy(weights["a"], tmp_path / "w.safetensors")
    method = Method("unet", unet, checkpoint=str(tmp_path / "w.safetensors"))

    def exchange(row, _):
        shutil.copy(weights["b"], tmp_path / "w.safetensors")

    with pytest.raises(InputError, match=r"w\.safetensors has changed since this run began, so the network unet is no longer .* admitted"):
        run(releases / "one", tmp_path / "run", (TKD, method), events=Events(on_map=exchange))
    assert not list((tmp_path / "run" / "maps").glob("*unet*"))


def test_of_a_network_by_another_name_only_the_schedule_is_tuned(weights):
    def disguised(field, *, checkpoint: str | None = None, a: int = 1):
        return field

    disguised.kind = "iterative"
    with pytest.raises(InputError, match="would tune a against the truth"):
        check_search(Method("disguised", disguised, a=1), ["a"])


def test_fingerprints_tell_architectures_and_nothing_else():
    one = architecture_fingerprint(NETWORK)
    assert architecture_fingerprint(NETWORK | {"keywords": {"width": 2, "depth": 1, "zero_head": False, "kernel_size": 3}}) == one
    for changed in (
        {"keywords": {"width": 2, "depth": 2}},
        {"keywords": {"width": 2, "depth": 1, "norm": "group"}},
        {"adapter": {"channels": ["field", "prior"]}},
        {"adapter": {"channels": ["field", "prior", "weight"], "residual": False}},
    ):
        assert architecture_fingerprint(NETWORK | changed) != one
    with pytest.raises(InputError, match="architecture is 'other'"):
        architecture_fingerprint({"architecture": "other"})


def test_settings_are_chosen_for_each_noise_level(releases, tmp_path):
    wanted = plan(releases / "two", tmp_path, (TKD, TV), stage=2)
    search, tuning = {"tkd": {"threshold": {"low": 0.05, "high": 0.4}}}, TuningSettings(n_trials=3)
    reports = []
    tuned = choose(wanted, search, tuning, check_scans(wanted), on_trial=reports.append, on_step=lambda *_: None)
    assert list(tuned) == [("tkd", "Snr1"), ("tkd", "Snr2")]
    assert [(r.level, r.trial.number) for r in reports] == [(level, n) for level in ("Snr1", "Snr2") for n in (1, 2, 3)]
    assert reports[0].seconds_left == pytest.approx(2 * reports[0].trial.seconds)
    chosen = settings_by_scan(wanted, tuned, per_snr=True)
    assert chosen["tkd", "Sim1Snr1"] == chosen["tkd", "Sim2Snr1"] == tuned["tkd", "Snr1"].settings
    rows = run(releases / "two", tmp_path / "run", (TKD, TV), stage=2, chosen=chosen)
    of_level = [row["metrics"]["rmse"] for row in rows if row["method"] == "tkd" and row["scan"].endswith("Snr1")]
    assert sum(of_level) / 2 == pytest.approx(tuned["tkd", "Snr1"].value, rel=1e-5)
    assert list(levels(wanted.scans, per_snr=False)) == ["all"]


def test_stage_2_needs_truths(release):
    shutil.rmtree(release / "Sim1" / "GT")
    scans = find_scans(release, stage=2)
    assert len(levels(scans, per_snr=True)["all"]) == 2  # Sim1 takes the settings of Sim2
    with pytest.raises(InputError, match=r"Stage 2 tunes against the truth, but Sim1 has none"):
        levels(scans[:1], per_snr=True)


def test_trials_have_a_time(releases, sample, tmp_path):
    wanted = plan(releases / "one", tmp_path)
    case = wanted.read(wanted.scans[1])
    objective = make_objective(TV, [(case, with_calcification(sample[1]))], seed=0, trial_minutes=1e-9, on_step=lambda *_: None)
    with pytest.raises(TrialTooLong, match=r"longer than 1e-09 min"):
        objective({"regularisation": 1e-4})
    for settings in ({"n_trials": 0}, {"trial_minutes": 0.0}):
        with pytest.raises(InputError, match="both must be positive"):
            TuningSettings(**settings)


def test_notes_that_are_none_are_refused(tmp_path):
    store = MapStore(tmp_path)
    (tmp_path / "maps").mkdir()
    store.path("Sim1", "tkd").write_bytes(b"")
    (tmp_path / "maps" / "Sim1_tkd.json").write_text("[]")
    with pytest.raises(InputError, match="is not the note of a map"):
        store.find("Sim1", "tkd", {})


@pytest.mark.parametrize(("method", "kind"), [(TKD, "direct"), (Method("l2", l2), "direct"), (TV, "iterative"), (Method("u", unet), "deep learning")])
def test_kinds(method, kind):
    assert method.kind == kind


def test_a_function_may_declare_its_kind():
    def own(field, *, a: int = 1):
        return None

    assert Method("own", own).kind == "iterative"
    assert Method("own", about(kind="direct", reference="Own et al. 2026")(own)).kind == "direct"
    with pytest.raises(InputError, match="kind is 'magic'"):
        about(kind="magic")
