"""Blind scoring: right numbers, forms opened last, resumable, in parallel, and every input checked."""

import json
import os
import sys
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

import pytest
from archive_samples import ID, SIM1, archive, chi_map, good_members, nifti, truth_of
from judging_desk import make_desk, run

from qsmdl.challenge import judge as judging
from qsmdl.challenge.judge import Judged, find_archives, judge
from qsmdl.challenge.metrics import score
from qsmdl.challenge.plan import make_plan
from qsmdl.cli.main import main
from qsmdl.errors import InputError
from qsmdl.io.nifti import write_volume


@pytest.fixture
def desk(tmp_path):
    return make_desk(tmp_path)


def test_a_packed_map_gets_the_scores_that_score_gives_it(desk):
    rows = run(desk)
    assert [(row["method"], row["scan"]) for row in rows] == [(f"M{i}", scan) for i in range(3) for scan in ("Sim1", "Sim2")]
    for index, row in enumerate(rows):
        chi, mask, labels = truth_of(row["scan"])
        assert row["metrics"] == score(chi_map(row["scan"], seed=index // 2, noise=0.2 + 0.1 * (index // 2)), chi, mask, labels)
    assert rows[0]["metrics"]["CalcStreak"] is None
    assert rows[1]["metrics"]["CalcStreak"] is not None
    assert {k: rows[4][k] for k in ("kind", "seed", "seconds", "attested", "stage", "dialect", "stopped")} == {
        "kind": "deep learning", "seed": 2, "seconds": 12.5, "attested": False, "stage": 1, "dialect": "rc2", "stopped": "submitted"
    }  # fmt: skip


def test_what_is_written_and_printed(desk, capsys):
    (desk / "in" / f"{ID}.zip").write_bytes(b"no zip")
    run(desk)
    told = capsys.readouterr()
    assert "M1" in told.out
    assert f"refused {ID}.zip: it has 6 bytes" in told.err
    assert "3 scored, 1 refused" in told.err
    assert "M1" not in told.err
    assert json.loads((desk / "out" / "refused.json").read_text())[0]["file"] == f"{ID}.zip"
    assert {row["method"] for row in json.loads((desk / "out" / "blind.json").read_text())} == {"SUBMIT0000", "SUBMIT0001", "SUBMIT0002"}
    assert json.loads((desk / "out" / "submissions.json").read_text())["SUBMIT0001"]["acronym"] == "M1"
    assert len((desk / "out" / "rows.csv").read_text().splitlines()) == 7


_events: list[tuple[str, str]] | None = None


def _listen(event, arguments):
    if _events is not None and event in ("open", "os.rename", "os.listdir", "os.scandir"):
        path = arguments[1] if event == "os.rename" else arguments[0]
        _events.append((event, str(path)))


def test_forms_are_opened_after_all_scores_are_written(desk):
    """As the interpreter itself reports every file that is opened."""
    global _events
    sys.addaudithook(_listen)
    _events = []
    try:
        run(desk)
    finally:
        seen, _events = _events, None
    forms = [i for i, (event, path) in enumerate(seen) if event != "os.rename" and path.startswith(str(desk / "forms"))]
    scores = [i for i, (event, path) in enumerate(seen) if event == "os.rename" and "/scores/" in path]
    blind = [i for i, (event, path) in enumerate(seen) if event == "os.rename" and path.endswith("blind.json")]
    assert len(scores) == 3
    assert len(forms) >= 3
    assert max(scores) < blind[0] < min(forms)


def test_scores_know_identifiers_only(desk):
    run(desk)
    for path in (desk / "out" / "scores").iterdir():
        content = json.loads(path.read_text())
        assert content["identifier"].startswith("SUBMIT")
        assert "method" not in path.read_text()


class _DeadPool:
    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def submit(self, *_):
        future = Future()
        future.set_exception(BrokenProcessPool("killed"))
        return future

    def shutdown(self, **_):
        return None


def test_a_killed_worker_is_told(desk, monkeypatch):
    monkeypatch.setattr(judging, "ProcessPoolExecutor", _DeadPool)
    plan, references = make_plan(desk / "release", desk / "out")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with pytest.raises(InputError, match="smaller --jobs"):
        judge(find_archives(desk / "in"), plan, references, jobs=2)
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_a_full_disk_is_not_the_submissions_fault(desk, monkeypatch):
    plan, references = make_plan(desk / "release", desk / "out")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qsmdl.challenge.mapfile.tempfile.TemporaryFile", full)
    with pytest.raises(InputError, match="No space left on device"):
        judge(find_archives(desk / "in"), plan, references)
    monkeypatch.undo()
    monkeypatch.setattr(judging, "write_json", lambda *_, **__: (_ for _ in ()).throw(InputError("scores could not be written")))
    with pytest.raises(InputError, match="could not be written"):
        judge(find_archives(desk / "in"), plan, references)


def test_whatever_a_submission_provokes_the_others_go_on(desk, monkeypatch):
    plan, references = make_plan(desk / "release", desk / "out")
    original = judging.read_map

    def fragile(chunks, *, name, **keywords):
        if "SUBMIT0001" in name:
            raise MemoryError("\x1b[2J")
        return original(chunks, name=name, **keywords)

    monkeypatch.setattr(judging, "read_map", fragile)
    judged, refused = judge(find_archives(desk / "in"), plan, references)
    assert len(judged) == 2
    assert "provoked MemoryError: '\\x1b[2J'" in refused[0].reason


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--jobs", "0"], "jobs is 0"),
        (["--dialect", "latin"], "latin"),
        (["--stage", "2"], "no truth of Sim1Snr1"),
        (["--forms", "nowhere"], "nowhere"),
    ],
)
def test_bad_settings_end_with_a_sentence_and_no_rows(desk, capsys, words, reason):
    with pytest.raises(SystemExit) as stop:
        run(desk, *words)
    assert stop.value.code == 2
    assert reason in capsys.readouterr().err
    assert not (desk / "out" / "rows.json").exists()


def test_nothing_to_score(desk, capsys):
    for path in (desk / "in").iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(SystemExit):
        run(desk)
    assert "None of the 3 submissions could be scored" in capsys.readouterr().err
    assert not (desk / "out" / "rows.json").exists()
    for folder, reason in ((desk / "release", "no file that ends in .zip"), (desk / "nowhere", "is not a folder")):
        with pytest.raises(InputError, match=reason):
            find_archives(folder)


def test_submit_on_the_command_line(tmp_path, capsys):
    for scan in ("Sim1", "Sim2"):
        write_volume(tmp_path / f"{scan}.nii", chi_map(scan))
    maps = [str(tmp_path / "Sim1.nii"), f"Sim2={tmp_path / 'Sim2.nii'}"]
    told = ["--name", "Total variation", "--type", "iterative", "--input-used", "frequency map", "--magnitude-used", "yes", "--regularisation", "TV"]
    main(["submit", *maps, "-o", str(tmp_path / "out"), *told, "--seeds", "1", "2", "--runtime-s", "3"])
    (form,) = (tmp_path / "out").glob("*.json")
    content = json.loads(form.read_text())
    assert (content["acronym"], content["magnitude_used"], content["seeds"], content["stage"]) == ("Total variation", True, [1, 2], 1)
    assert form.with_suffix(".zip").exists()
    main(["submit", *maps, "-o", str(tmp_path / "out"), "--form", str(form), "--identifier", ID, "--acronym", "TV"])
    assert json.loads((tmp_path / "out" / f"{ID}.json").read_text())["acronym"] == "TV"
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["submit", *maps, "-o", str(tmp_path / "out"), *told])
    assert stop.value.code == 2
    assert "lacks runtime_s" in capsys.readouterr().err


def test_other_grids_than_the_truths_are_refused(desk):
    (desk / "in" / f"{ID}.zip").write_bytes(archive({**good_members(), SIM1: nifti(chi_map("Sim1")[:-1])}))
    plan, references = make_plan(desk / "release", desk / "out")
    judged, (refused,) = judge(find_archives(desk / "in"), plan, references)
    assert all(isinstance(one, Judged) for one in judged)
    assert "13 x 18 x 16 voxels, but the truth has 14 x 18 x 16" in refused.reason
