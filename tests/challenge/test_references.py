"""The truths that submissions are scored against."""


import shutil

import numpy as np
import pytest
from archive_samples import truth_of, write_truth
from judging_desk import hand_in

from qsmdl.challenge.judge import find_archives, judge
from qsmdl.challenge.plan import make_plan
from qsmdl.challenge.references import find_references, load_references
from qsmdl.challenge.submission import SCANS
from qsmdl.challenge.verdict import blind_rows, join_forms
from qsmdl.errors import InputError
from qsmdl.io.nifti import write_volume


@pytest.fixture
def release(tmp_path):
    return write_truth(tmp_path / "release")


def test_stage_2_and_its_truths(tmp_path):
    release = write_truth(tmp_path / "release" / "DatasetsStep2", SCANS[2])
    hand_in(tmp_path / "in", n=1, stage=2)
    plan, references = make_plan(tmp_path / "release", tmp_path / "out")
    assert (plan.stage, set(references)) == (2, set(SCANS[2]))
    judged, _ = judge(find_archives(tmp_path / "in"), plan, references)
    rows = join_forms(blind_rows(judged, plan, references), tmp_path / "in", stage=2).rows
    assert [row["scan"] for row in rows] == list(SCANS[2])
    # stage 1 is scored against the truth that was published with stage 2
    stage, folders = find_references(release, 1)
    assert (stage, folders["Sim2"].name) == (1, "Sim2Snr1")
    write_truth(tmp_path / "release")
    with pytest.raises(InputError, match="both stages"):
        find_references(tmp_path / "release")
    assert find_references(tmp_path / "release", 1)[1]["Sim1"] == tmp_path / "release" / "Sim1"


def test_the_second_form_of_a_release(release):
    shutil.move(release / "Sim2" / "GT", release / "Sim2GT")
    assert set(load_references(find_references(release)[1])) == {"Sim1", "Sim2"}


def test_truths_are_checked(tmp_path, release):
    with pytest.raises(InputError, match="is not a folder"):
        find_references(tmp_path / "nowhere")
    with pytest.raises(InputError, match="stage is 3"):
        find_references(release, 3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no truth of every scan of a stage"):
        find_references(tmp_path / "empty")
    write_volume(release / "Sim2" / "GT" / "Segmentation.nii", truth_of("Sim1")[2], overwrite=True, dtype=np.uint8)
    with pytest.raises(InputError, match="Sim2 has no calcification"):
        load_references(find_references(release)[1])


def test_truths_that_score_nothing_are_refused(release):
    chi, _, labels = truth_of("Sim1")
    write_volume(release / "Sim1" / "GT" / "Segmentation.nii", np.where(labels == 11, 8, labels), overwrite=True, dtype=np.uint8)
    with pytest.raises(InputError, match=r"segmentation of Sim1 in .* holds no blood \(11\)"):
        load_references(find_references(release)[1])
    write_volume(release / "Sim1" / "GT" / "Chi.nii", np.full_like(chi, 0.1), overwrite=True)
    with pytest.raises(InputError, match=r"truth of Sim1 in .* is constant \(0\.1\)"):
        load_references(find_references(release)[1])


def test_truths_share_one_grid(release):
    for name, volume in zip(("MaskBrainExtracted", "GT/Chi", "GT/Segmentation"), truth_of("Sim1")[1::-1] + truth_of("Sim1")[2:], strict=True):
        write_volume(release / "Sim1" / f"{name}.nii", volume[:, :, :-1].astype(np.float32), overwrite=True)
    with pytest.raises(InputError, match="different grids"):
        load_references(find_references(release)[1])
