"""The order of stage 1, and going on after a kill."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from small_releases import STAGE_1, STAGE_2, as_siblings, write_scans
from staged_runs import TKD, TV, plan, run

from qsmdl.challenge import stages
from qsmdl.challenge.metrics import METRICS, score
from qsmdl.challenge.stages import Events
from qsmdl.challenge.truth import read_truth
from qsmdl.errors import InputError
from qsmdl.io.nifti import read_volume, write_volume
from qsmdl.methods import Method
from qsmdl.solvers.direct import l2

OPENED: list[str] = []


def _audit(event, arguments):
    if event == "open" and isinstance(arguments[0], str | bytes | Path):
        OPENED.append(str(arguments[0]))


sys.addaudithook(_audit)


@pytest.fixture(scope="module")
def releases(tmp_path_factory, sample):
    root = tmp_path_factory.mktemp("releases")
    write_scans(root / "one", sample, STAGE_1)
    write_scans(root / "two", sample, STAGE_2)
    shutil.copytree(root / "one", root / "siblings")
    as_siblings(root / "siblings")
    return root


@pytest.fixture
def release(releases, tmp_path):
    """A copy of stage 1 that a test may damage."""
    return shutil.copytree(releases / "one", tmp_path / "release")


def change(path, function):
    volume = function(read_volume(path)[0])
    path.unlink()
    write_volume(path, volume)


def test_rows_are_those_of_the_maps_on_disk(releases, tmp_path):
    rows = run(releases / "one", tmp_path)
    assert [(row["scan"], row["method"]) for row in rows] == [("Sim1", "tkd"), ("Sim1", "tv"), ("Sim2", "tkd"), ("Sim2", "tv")]
    for row in rows:
        truth = read_truth(releases / "one" / row["scan"])
        chi = read_volume(tmp_path / "maps" / f"{row['scan']}_{row['method']}.nii.gz")[0]
        assert row["metrics"] == score(chi, truth.chi_ppm, truth.mask, truth.labels)
        assert set(METRICS) <= set(row["metrics"])
        assert (row["kind"], row["dialect"], row["convention"], row["stage"], row["attested"]) == (
            "direct" if row["method"] == "tkd" else "iterative", "rc2", "release", 1, None,
        )  # fmt: skip
    assert rows[0]["metrics"]["CalcStreak"] is None
    assert rows[2]["data"] != rows[0]["data"]  # two truths


def test_both_layouts_give_the_same_rows(releases, tmp_path):
    one, other = (run(releases / name, tmp_path / name) for name in ("one", "siblings"))
    assert [row["metrics"] for row in one] == [row["metrics"] for row in other]


def test_no_truth_is_opened_before_every_map_is_written(releases, tmp_path):
    """Every file that the process opens is watched: of the truths, none before the last map."""
    OPENED.clear()
    run(releases / "one", tmp_path)
    truths = [i for i, path in enumerate(OPENED) if "/GT/" in path]
    # files are written under a hidden name and then renamed; the note of a map is written after it
    notes = [i for i, path in enumerate(OPENED) if "/maps/." in path and path.endswith(".json")]
    assert len({OPENED[i] for i in notes}) == 4
    assert len(truths) >= 4
    assert min(truths) > max(notes)
    protocol = [i for i, path in enumerate(OPENED) if "/.protocol." in path]
    assert protocol[0] < min(notes)  # what would be done was written down before
    assert any(max(notes) < i < min(truths) for i in protocol)


def test_the_truth_reader_is_not_called_while_maps_are_missing(releases, tmp_path, monkeypatch):
    def watched(folder):
        assert len(list((tmp_path / "maps").glob("*.json"))) == 4
        assert json.loads((tmp_path / "protocol.json").read_text())["state"] == "maps written"
        return read_truth(folder)

    monkeypatch.setattr(stages, "read_truth", watched)
    assert len(run(releases / "one", tmp_path)) == 4


def test_one_setting_for_all_scans_is_recorded(releases, tmp_path):
    run(releases / "one", tmp_path)
    protocol = json.loads((tmp_path / "protocol.json").read_text())
    assert protocol["state"] == "scored"
    assert protocol["stage"] == 1
    assert protocol["methods"]["tv"]["settings"] == {"n_iterations": 3, "regularisation": 8e-5}
    by_method = {}
    for row in protocol["rows"]:
        by_method.setdefault(row["method"], []).append(row["settings"])
    assert all(settings == [protocol["methods"][name]["settings"]] * 2 for name, settings in by_method.items())
    assert protocol["scored_in"] == {"Sim1": "MaskBrainExtracted", "Sim2": "MaskBrainExtracted"}
    assert protocol["versions"]["torch"] == torch.__version__


def test_a_killed_run_goes_on(releases, tmp_path):
    def kill(row, _):
        if (row["scan"], row["method"]) == ("Sim2", "tkd"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(releases / "one", tmp_path / "a", events=Events(on_map=kill))
    assert json.loads((tmp_path / "a" / "protocol.json").read_text())["state"] == "reconstructing"
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "a" / "maps").iterdir()}
    (tmp_path / "a" / "maps" / "Sim2_tkd.json").unlink()  # killed between a map and its note
    reused = []
    rows = run(releases / "one", tmp_path / "a", events=Events(on_map=lambda row, was_there: reused.append(was_there)))
    assert reused == [True, True, False, False]
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "a" / "maps").iterdir()}
    assert all(before[name] == after[name] for name in before if name.startswith("Sim1"))
    assert [row["metrics"] for row in rows] == [row["metrics"] for row in run(releases / "one", tmp_path / "b")]


def test_a_run_with_other_settings_is_not_continued(releases, tmp_path, release):
    run(releases / "one", tmp_path / "a")
    with pytest.raises(InputError, match=r"belongs to a run with other settings: methods\.tkd\.settings\.threshold was 0\.2 and is now 0\.1"):
        run(releases / "one", tmp_path / "a", (TKD.with_settings({"threshold": 0.1}), TV))
    with pytest.raises(InputError, match=r"seed was 0 and is now 1"):
        run(releases / "one", tmp_path / "a", seed=1)
    with pytest.raises(InputError, match=r"methods\.tv was .* and is now None"):
        run(releases / "one", tmp_path / "a", (TKD,))
    change(release / "Sim2" / "Magnitude.nii.gz", lambda volume: 2 * volume)
    with pytest.raises(InputError, match=r"data\.scans\.Sim2\.content was"):
        run(release, tmp_path / "a")
    other = tmp_path / "a" / "maps" / "Sim1_tkd.nii.gz"
    other.write_bytes((tmp_path / "a" / "maps" / "Sim1_tv.nii.gz").read_bytes())
    with pytest.raises(InputError, match=r"Sim1_tkd\.nii\.gz is not the file that this run wrote"):
        run(releases / "one", tmp_path / "a")
    (tmp_path / "b" / "maps").mkdir(parents=True)
    with pytest.raises(InputError, match=r"holds another run, without protocol\.json"):
        run(releases / "one", tmp_path / "b")


def test_another_dialect_scores_the_same_maps(releases, tmp_path):
    run(releases / "one", tmp_path)
    reused = []
    scoring = stages.Scoring("corrected", additional=True)
    rows = run(releases / "one", tmp_path, scoring=scoring, events=Events(on_map=lambda row, was_there: reused.append(was_there)))
    assert all(reused)
    assert {row["dialect"] for row in rows} == {"corrected"}
    assert "XSIM" in rows[0]["metrics"]
    with pytest.raises(InputError, match="dialect"):
        stages.Scoring("rc3")


def test_blind_scans_are_reconstructed_and_left_unscored(release, tmp_path):
    shutil.rmtree(release / "Sim1" / "GT")
    rows = run(release, tmp_path / "run", (TKD,))
    assert rows[0]["metrics"] == {}
    assert rows[1]["metrics"]["rmse"] > 0
    assert json.loads((tmp_path / "run" / "protocol.json").read_text())["blind"] == ["Sim1"]


def test_truths_that_do_not_fit_leave_no_scores(release, tmp_path, sample):
    change(release / "Sim1" / "GT" / "Chi.nii.gz", lambda volume: volume[1:])
    with pytest.raises(InputError, match=r"Sim1/GT/Chi\.nii\.gz has the shape \(32, 41, 41\), but .*MaskBrainExtracted"):
        run(release, tmp_path / "a", (TKD,))
    shutil.rmtree(release)
    write_scans(release, sample, ["Sim1"])
    (release / "Sim1").rename(release / "Sim2")
    with pytest.raises(InputError, match="Sim2 has no calcification"):
        run(release, tmp_path / "b", (TKD,))
    assert not list(tmp_path.glob("[ab]/rows.*"))


def test_damaged_scans_are_named_before_anything_is_computed(release, tmp_path):
    change(release / "Sim2" / "Phase.nii.gz", lambda volume: volume * float("nan"))
    with pytest.raises(InputError, match=r"Sim2/Phase\.nii\.gz holds .* NaN"):
        run(release, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_plans_need_methods_with_names_of_their_own(releases, tmp_path):
    with pytest.raises(InputError, match="at least one method"):
        plan(releases / "one", tmp_path, ())
    with pytest.raises(InputError, match="Two methods have one name"):
        plan(releases / "one", tmp_path, (TKD, Method("tkd", l2)))


def test_a_guard_may_refuse_before_anything_is_scored(releases, tmp_path):
    def refuse(truths):
        assert set(truths) == {"Sim1", "Sim2"}
        raise InputError("trained on the truth")

    with pytest.raises(InputError, match="trained on the truth"):
        run(releases / "one", tmp_path, check_truths=refuse)
