"""A judging that was interrupted or killed goes on, and never takes scores of something else."""


import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from archive_samples import ID, archive, good_members, truth_of
from judging_desk import make_desk, run

from qsmdl.challenge import judge as judging
from qsmdl.challenge.judge import find_archives, judge
from qsmdl.challenge.plan import make_plan
from qsmdl.challenge.references import Reference
from qsmdl.errors import InputError
from qsmdl.io.nifti import write_volume


@pytest.fixture
def desk(tmp_path):
    return make_desk(tmp_path)


@pytest.fixture
def count(monkeypatch):
    """Maps scored so far."""
    done = []
    original = Reference.score

    def counted(self, *arguments, **keywords):
        done.append(1)
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(Reference, "score", counted)
    return done


def test_an_interrupted_judging_goes_on(desk, count):
    plan, references = make_plan(desk / "release", desk / "out")
    count.clear()
    paths = find_archives(desk / "in")

    def interrupt(outcome, n_done, n_all):
        if n_done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge(paths, plan, references, on_outcome=interrupt)
    assert len(count) == 4
    judged, refused = judge(paths, plan, references)
    assert len(count) == 6
    assert [one.resumed for one in judged] == [True, True, False]
    again, _ = judge(paths, plan, references)
    assert len(count) == 6
    assert [one.scores for one in again] == [one.scores for one in judged]
    assert not refused


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text(path.read_text().replace('"Sim2": {', '"Sim3": {')),
        lambda path: path.write_text(path.read_text().replace('"rmse": ', '"rmse": "low", "x": ')),
        lambda path: path.unlink(),
    ],
)
def test_scores_that_were_damaged_are_computed_again(desk, count, spoil):
    plan, references = make_plan(desk / "release", desk / "out")
    before, _ = judge(find_archives(desk / "in"), plan, references)
    spoil(plan.path(json.loads(next(iter(plan.scores.iterdir())).read_text())["archive_sha256"]))
    count.clear()
    after, _ = judge(find_archives(desk / "in"), plan, references)
    assert len(count) == 2
    assert [one.scores for one in after] == [one.scores for one in before]


def test_scores_hold_for_one_archive_truth_and_dialect(desk, count):
    plan, references = make_plan(desk / "release", desk / "out")
    paths = find_archives(desk / "in")
    judge(paths, plan, references)
    for change in ("archive", "truth", "dialect", "additional"):
        if change == "archive":
            paths[0].write_bytes(archive({name.replace(ID, paths[0].stem): content for name, content in good_members(9).items()}))
            n_again, settings = 2, {}
        elif change == "truth":
            path = desk / "release" / "Sim1" / "GT" / "Chi.nii"
            write_volume(path, np.float32(1.01) * truth_of("Sim1")[0], overwrite=True)
            n_again, settings = 6, {}
        else:
            n_again, settings = 6, {"dialect": "corrected"} if change == "dialect" else {"additional": True}
        new_plan, new_references = make_plan(desk / "release", desk / "out", **settings)
        count.clear()
        judge(paths, new_plan, new_references)
        assert len(count) == n_again, change


def test_no_worker_scores_against_other_truths_than_were_checked(desk):
    plan, references = make_plan(desk / "release", desk / "out")
    write_volume(desk / "release" / "Sim1" / "GT" / "Chi.nii", np.float32(1.01) * truth_of("Sim1")[0], overwrite=True)
    with pytest.raises(InputError, match="truths changed"):
        judge(find_archives(desk / "in"), plan, references, jobs=2)
    assert not any(plan.scores.iterdir())


def test_the_same_bytes_under_another_name_are_another_claim(desk):
    run(desk)
    shutil.copy(desk / "in" / "SUBMIT0000.zip", desk / "in" / "COPIEDFROM.zip")
    run(desk)
    (refused,) = json.loads((desk / "out" / "refused.json").read_text())
    assert refused["file"] == "COPIEDFROM.zip"
    assert "archive named COPIEDFROM.zip holds COPIEDFROM_Sim1_Step1.nii" in refused["reason"]


def _children(pid):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(stat.parent.name))
    return found


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_judge_leaves_whole_scores_and_no_workers(desk):
    for index in range(12):
        name = f"KILLED{index:04d}"
        members = {member.replace(ID, name): content for member, content in good_members(index).items()}
        (desk / "in" / f"{name}.zip").write_bytes(archive(members))
    code = "import sys; from qsmdl.cli.main import main; main(sys.argv[1:])"
    words = ["judge", str(desk / "in"), "--truth", str(desk / "release"), "-o", str(desk / "out"), "--jobs", "2"]
    path = os.pathsep.join([str(Path(judging.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    silent = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-c", code, *words], **silent, env=os.environ | {"PYTHONPATH": path})
    scores, deadline = desk / "out" / "scores", time.monotonic() + 110
    while not any(scores.glob("[!.]*.json")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    workers = _children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while any(map(_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(_alive, workers))
    n_kept = len([json.loads(path.read_text()) for path in scores.glob("[!.]*.json")])
    assert n_kept >= 1
    plan, references = make_plan(desk / "release", desk / "out")
    judged, refused = judge(find_archives(desk / "in"), plan, references)
    assert (len(judged), len(refused)) == (15, 0)
    assert sum(one.resumed for one in judged) == n_kept
    fresh, _ = judge(find_archives(desk / "in"), make_plan(desk / "release", desk / "other")[0], references)
    assert [one.scores for one in judged] == [one.scores for one in fresh]
