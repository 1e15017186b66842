"""qsmdl baselines: one command for the table of all methods, which goes on where it was left."""

import json
import signal

import pytest
from small_releases import STAGE_1, write_scans

from qsmdl.challenge.baselines import run_task
from qsmdl.cli import baseline_runs
from qsmdl.cli.main import main
from qsmdl.report.table import read_rows

BROKEN = '''
import os

from qsmdl.scan import ChiMap, FieldMap


def breaks(field: FieldMap, *, how: str = "error") -> ChiMap:
    """Never makes a map."""
    if how == "error":
        raise ZeroDivisionError("by nothing")
    os._exit(9)
'''


@pytest.fixture(scope="module")
def release(tmp_path_factory, sample):
    return write_scans(tmp_path_factory.mktemp("scans") / "small", sample, STAGE_1)


@pytest.fixture
def broken(tmp_path, monkeypatch):
    folder = tmp_path / "own"
    (folder / "method").mkdir(parents=True)
    (folder / "breaking_methods.py").write_text(BROKEN)
    (folder / "method" / "breaks.yaml").write_text("# @package method.breaks\n_target_: breaking_methods.breaks\nhow: error\n")
    monkeypatch.setenv("QSMDL_METHODS", str(folder))


def run(folder, release, *words):
    main(["baselines", "-o", str(folder), "--scans", str(release), *words])


def made(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "maps").glob("*.nii.gz")}


@pytest.fixture
def in_process(monkeypatch):
    """Importing everything in a process for each task takes longer than the tasks."""
    monkeypatch.setattr(baseline_runs, "_run", lambda task, minutes: run_task(task))


@pytest.mark.usefixtures("broken", "in_process")
def test_the_table(release, tmp_path, capsys):
    """Two methods and one that fails; a second call makes what changed, and nothing else."""
    folder = tmp_path / "run"
    run(folder, release, "--methods", "tkd", "l2", "breaks", "--page", str(tmp_path / "page.md"))
    page = capsys.readouterr().out
    assert page == (folder / "baselines.md").read_text() == (tmp_path / "page.md").read_text()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    assert table[0][:6] == ["method", "type", "NRMSE (%)", "unrung", "Sim1", "Sim2"]
    assert sorted(row[0] for row in table[2:]) == ["l2", "tkd"]
    nrmse = [float(row[2].strip("*")) for row in table[2:]]
    assert nrmse == sorted(nrmse)
    for row in table[2:]:
        assert float(row[2].strip("*")) == pytest.approx((float(row[4]) + float(row[5])) / 2, abs=0.06)
        assert row[3] != row[2].strip("*")
    assert "- breaks: ZeroDivisionError: by nothing (on Sim1)" in page
    assert "qsmdl baselines -o run --methods tkd l2 breaks --scans small --seed 0" in page
    assert str(tmp_path) not in page
    rows = read_rows(folder / "rows.json")
    assert {(row["method"], row["scan"]) for row in rows} == {(m, s) for m in ("tkd", "l2") for s in ("Sim1", "Sim2")}
    assert all(row["peak_bytes"] > 50e6 for row in rows)

    before = made(folder)
    run(folder, release, "--methods", "tkd", "l2", "--set", "tkd.threshold=0.1")
    page = capsys.readouterr().out
    after = made(folder)
    assert {name for name in before if after[name] != before[name]} == {"Sim1_tkd.nii.gz", "Sim2_tkd.nii.gz"}
    assert "threshold = 0.1" in page
    assert "Without a map" not in page


@pytest.mark.usefixtures("broken")
def test_each_task_has_a_process_of_its_own_and_one_that_dies_is_told(release, tmp_path, capsys):
    run(tmp_path / "run", release / "Sim1", "--methods", "breaks", "tkd", "--set", "breaks.how=die")
    assert set(made(tmp_path / "run")) == {"Sim1_tkd.nii.gz"}
    assert "its process ended with status 9" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "failed" / "Sim1_breaks.json").read_text())["made_from"]["settings"] == {"how": "die"}


def test_a_stopped_fit_is_no_failure(release, tmp_path, monkeypatch, capsys):
    """Ctrl-C within FINE leaves its state, from which the same command goes on."""
    folder, words = tmp_path / "run", ("--methods", "fine", "--set", "fine.n_steps=2")
    monkeypatch.setattr(baseline_runs, "_run", lambda task, minutes: run_task(task, lambda step, value: signal.raise_signal(signal.SIGINT)))
    with pytest.raises(SystemExit) as stop:
        run(folder, release / "Sim1", *words)
    assert stop.value.code == 130
    assert "interrupted: FINE stopped after 0 steps. State saved in" in capsys.readouterr().err
    assert not (folder / "failed").exists()
    assert [path.name for path in folder.glob("*.fine_state.safetensors")] == ["Sim1_fine.fine_state.safetensors"]
    monkeypatch.setattr(baseline_runs, "_run", lambda task, minutes: run_task(task))
    run(folder, release / "Sim1", *words)
    assert set(made(folder)) == {"Sim1_fine.nii.gz"}
    assert not list(folder.glob("*.fine_state.safetensors"))


@pytest.mark.usefixtures("in_process")
def test_blind_scans(sample, tmp_path, capsys):
    """Maps of every scan, a table without scores."""
    blind = write_scans(tmp_path / "blind", sample, STAGE_1, truth=False)
    run(tmp_path / "run", blind, "--methods", "tkd", "--set", "tkd.unring=true")
    page = capsys.readouterr().out
    assert set(made(tmp_path / "run")) == {"Sim1_tkd.nii.gz", "Sim2_tkd.nii.gz"}
    assert "The truth of these scans is not known" in page
    assert "NRMSE" not in page
    assert all(row["metrics"] == {} for row in read_rows(tmp_path / "run" / "rows.json"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "tkdd"], "did you mean 'tkd'"),
        (["--methods", "tkd", "--set", "tkd=1"], "not of the form NAME.KEY=VALUE"),
        (["--methods", "tkd", "--set", "l2.regularisation=1"], "not of the form NAME.KEY=VALUE with one of the methods tkd"),
        (["--methods", "tkd", "--set", "tkd.treshold=1"], "did you mean 'threshold'"),
        (["--methods", "tkd", "--without", "tkd"], "No method is left"),
        (["--methods", "tkd", "--minutes", "0"], "--minutes is 0.0"),
    ],
)
def test_wrong_words_are_named(release, tmp_path, capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "run", release, *words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
