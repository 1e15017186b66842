"""python evaluate.py stage=1 and stage=2."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from hydra import compose, initialize_config_dir
from small_releases import STAGE_1, STAGE_2, with_calcification, write_scans

from qsmdl.challenge.truth import read_truth
from qsmdl.cli.build import config_folder
from qsmdl.cli.evaluate import evaluate
from qsmdl.errors import InputError
from qsmdl.io.weights import save_weights
from qsmdl.networks.build import build_network
from qsmdl.report.table import read_rows

NETWORK = {"architecture": "unet", "adapter": {"channels": ["field", "prior", "weight"]}, "keywords": {"width": 2, "depth": 1, "zero_head": True}}


def composed(*overrides):
    with initialize_config_dir(version_base=None, config_dir=os.fspath(config_folder())):
        return compose("evaluate", overrides=list(overrides))


@pytest.fixture(scope="module")
def release(tmp_path_factory, sample):
    """Stage 1 blind beside stage 2, as handed out."""
    root = tmp_path_factory.mktemp("release")
    write_scans(root, sample, STAGE_1, truth=False)
    return write_scans(root, sample, STAGE_2)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(path, build_network(NETWORK).state_dict(), {"network": NETWORK, "prior": {"regularisations": [0.012, 0.003, 0.05]}})
    return path


def test_both_stages(release, weights, tmp_path, capsys):
    network = [f"method.unet.checkpoint={weights}", "allow_unattested=true"]
    words = [f"data.root={release}", "method=[tkd,unet]", *network]
    rows = evaluate(composed("stage=1", *words), tmp_path / "one")
    assert [(row["scan"], row["method"], row["metrics"]) for row in rows] == [
        ("Sim1", "tkd", {}), ("Sim1", "unet", {}), ("Sim2", "tkd", {}), ("Sim2", "unet", {}),
    ]  # fmt: skip
    capsys.readouterr()

    stage1 = tmp_path / "one" / "protocol.json"
    rows = evaluate(composed("stage=2", *words, f"stage1={stage1}", "tuning.n_trials=2"), tmp_path / "two")
    assert [row["scan"] for row in rows[::2]] == ["Sim1Snr1", "Sim1Snr2", "Sim2Snr1", "Sim2Snr2"]
    assert {(row["method"], row["kind"], row["attested"]) for row in rows} == {("tkd", "direct", None), ("unet", "deep learning", False)}
    assert {path.name for path in (tmp_path / "two").iterdir()} >= {
        "protocol.json", "rows.json", "rows.csv", "maps", "studies.db", "truth", "montage_Sim1Snr1.png", "montage_Sim2Snr2.png"
    }  # fmt: skip
    printed, said = capsys.readouterr()
    for title in ("Sim2Snr2 (", "mean of Sim1Snr1, Sim1Snr2, Sim2Snr1, Sim2Snr2", "mean of Sim1Snr1, Sim2Snr1 ", "mean of Sim1Snr2, Sim2Snr2 "):
        assert title in printed
    assert re.search(r"tkd, Snr2: trial 2 of 2: NRMSE [\d.]+, best [\d.]+; threshold", said)
    tuned = json.loads((tmp_path / "two" / "protocol.json").read_text())["tuned"]
    assert [(study["method"], study["level"], study["n_trials"]) for study in tuned] == [("tkd", "Snr1", 2), ("tkd", "Snr2", 2)]
    assert read_rows(tmp_path / "two" / "rows.json") == rows

    other = tmp_path / "wide.safetensors"
    network = NETWORK | {"keywords": {"width": 3, "depth": 1}}
    save_weights(other, build_network(network).state_dict(), {"network": network, "prior": {"regularisations": [0.012, 0.003, 0.05]}})
    with pytest.raises(InputError, match="architecture of unet has changed"):
        evaluate(composed("stage=2", *words, f"stage1={stage1}", f"method.unet.checkpoint={other}"), tmp_path / "three")
    with pytest.raises(InputError, match="may not enter the deep-learning track"):
        evaluate(composed("stage=2", *words, "allow_unattested=false"), tmp_path / "three")
    assert not (tmp_path / "three").exists()


def test_the_builtin_phantoms_go_through_the_stages(tmp_path, sample, monkeypatch):
    monkeypatch.setattr("qsmdl.challenge.cases.render_volume", lambda *_: (sample[0], with_calcification(sample[1])))
    words = ["method=[tkd]", "data.voxel_size_mm=5.0"]
    rows = evaluate(composed("stage=1", *words), tmp_path / "one")
    assert [row["scan"] for row in rows] == ["Sim1", "Sim2"]
    assert rows[1]["metrics"]["DeviationFromCalcMoment"] > 0
    assert torch.equal(read_truth(tmp_path / "one" / "release" / "Sim2").labels, with_calcification(sample[1]).labels)
    rows = evaluate(composed("stage=2", "data=builtin", "tuning.n_trials=1", *words), tmp_path / "two")
    assert [row["scan"] for row in rows] == ["Sim1Snr1", "Sim1Snr2", "Sim2Snr1", "Sim2Snr2"]


def test_a_refused_call_leaves_the_builtin_run_as_it_was(tmp_path, sample, monkeypatch):
    monkeypatch.setattr("qsmdl.challenge.cases.render_volume", lambda *_: (sample[0], with_calcification(sample[1])))
    words = ["stage=1", "method=[tkd]", "data.voxel_size_mm=5.0"]
    rows = evaluate(composed(*words), tmp_path)
    with pytest.raises(InputError, match="other settings"):
        evaluate(composed(*words, "data.n_pairs=2"), tmp_path)
    assert evaluate(composed(*words), tmp_path) == rows


def test_two_processes_do_not_share_a_folder(release, tmp_path):
    """The lock goes with the process, however it ends."""
    code = "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    words = ["stage=2", "method=[tkd]", f"data.root={release}", "data.scans=[Sim2Snr1]", "tuning.n_trials=1", f"tuning.study={tmp_path / 's.db'}"]
    for name, place in ((tmp_path / "run" / ".lock", "run"), (tmp_path / ".s.db.lock", tmp_path.name)):
        name.parent.mkdir(exist_ok=True)
        other = subprocess.Popen([sys.executable, "-c", code, os.fspath(name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match=rf"Another process works in .*{place} \(it holds {re.escape(name.name)}\)"):
            evaluate(composed(*words), tmp_path / "run")
        other.kill()
        other.communicate()
    assert len(evaluate(composed(*words), tmp_path / "run")) == 1


def test_a_root_alone_means_a_release(release, tmp_path):
    rows = evaluate(composed(f"data.root={release / 'DatasetsStep2' / 'Sim2Snr1'}", "method=[tkd]"), tmp_path)
    assert [(row["scan"], row["metrics"]["rmse"] > 0) for row in rows] == [("Sim2Snr1", True)]
    assert not (tmp_path / "protocol.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stage=3"], r"stage is 3; it must be 1 or 2"),
        (["stage=one"], r"stage is 'one'; it must be 1 or 2"),
        (["stage=1", "data=release"], r"data\.root is not given"),
        (["stage=1", "data.root=/nowhere"], r"/nowhere is not a folder"),
        (["stage=1", "dialect=rc3"], r"dialect"),
        (["stage=1", "data.field=raw"], r"data\.field is 'raw'|must be"),
        (["stage=1", "data.voxel_size_mm=fine"], r"data\.voxel_size_mm is 'fine'"),
        (["stage=2", "tuning.n_trials=0", "ROOT"], r"both must be positive"),
        (["stage=2", "tuning.n_trials=many", "ROOT"], r"tuning\.n_trials is 'many'"),
        (["stage=2", "search.tkd.threshold.low=0.3", "ROOT"], r"method\.tkd\.threshold is 0\.2, which search\.tkd\.threshold"),
        (["stage=2", "method.tkd.threshold=5", "ROOT"], r"method\.tkd\.threshold is 5"),
        (["stage=2", "ROOT/Sim1"], r"Stage 2 tunes against the truth, but Sim1 has none"),
    ],
)
def test_bad_words_are_named_before_anything_is_computed(release, tmp_path, words, message):
    words = [word.replace("ROOT", f"data.root={release}") for word in words]
    with pytest.raises(InputError, match=message):
        evaluate(composed("method=[tkd]", *words), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_killed_stage_2_goes_on_to_the_same_rows(release, tmp_path):
    """The real command, killed after its second trial; the same command ends as one that was not killed."""
    words = ["stage=2", f"data.root={release}", "data.scans=[Sim2Snr1]", "tuning.n_trials=4"]
    script = config_folder().parent / "evaluate.py"
    process = subprocess.Popen(
        [sys.executable, os.fspath(script), *words, "method=[tv]", "method.tv.n_iterations=40", f"hydra.run.dir={tmp_path / 'killed'}"],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert any("trial 2 of 4" in line for line in process.stderr)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (tmp_path / "killed" / "rows.json").exists()
    tuned = {}
    for name in ("killed", "whole"):
        rows = evaluate(composed(*words, "method=[tv]", "method.tv.n_iterations=40"), tmp_path / name)
        protocol = json.loads((tmp_path / name / "protocol.json").read_text())
        (study,) = protocol["tuned"]
        metrics = {key: value for key, value in rows[0]["metrics"].items() if value is not None}
        tuned[name] = [study["settings"], *(t["settings"] for t in study["trials"])], [t["value"] for t in study["trials"]], metrics
        assert study["n_trials"] == 4
        assert len(rows) == 1
    assert tuned["killed"][0] == tuned["whole"][0]
    for killed, whole in zip(tuned["killed"][1:], tuned["whole"][1:], strict=True):
        assert killed == pytest.approx(whole, rel=1e-6)  # another process: on some processors the last bits differ
