import shutil

import pytest
import torch
from small_releases import STAGE_1, STAGE_2, as_siblings, with_calcification, write_scans

from qsmdl.challenge.cases import release_cases, write_builtin_release
from qsmdl.challenge.release import check_truth, find_scans
from qsmdl.challenge.truth import read_truth
from qsmdl.errors import InputError


@pytest.fixture(scope="module")
def both_stages(tmp_path_factory, sample):
    """Stage 1 blind beside stage 2 with truths, one level down, as the release was handed out."""
    root = tmp_path_factory.mktemp("release")
    write_scans(root, sample, STAGE_1, truth=False)
    return write_scans(root, sample, STAGE_2)


@pytest.fixture
def release(both_stages, tmp_path):
    """A copy of two scans that a test may damage."""
    for name in ("Sim1Snr1", "Sim2Snr1"):
        shutil.copytree(both_stages / "DatasetsStep2" / name, tmp_path / "r" / name)
    return tmp_path / "r"


def names(scans):
    return [(scan.name, scan.has_truth, scan.level) for scan in scans]


def test_each_stage_takes_its_scans(both_stages):
    assert names(find_scans(both_stages, stage=1)) == [("Sim1", False, None), ("Sim2", False, None)]
    with_truth = [(f"Sim{s}Snr{n}", True, f"Snr{n}") for s in (1, 2) for n in (1, 2)]
    assert names(find_scans(both_stages, stage=2)) == with_truth
    assert names(find_scans(both_stages / "DatasetsStep2", stage=2)) == with_truth
    assert len(find_scans(both_stages)) == 6


def test_one_scan_is_a_release(both_stages):
    (scan,) = find_scans(both_stages / "DatasetsStep2" / "Sim2Snr2", stage=1)
    assert scan.name == "Sim2Snr2"


def test_the_second_form_has_its_truth_beside_the_scan(release):
    as_siblings(release)
    assert sorted(path.name for path in release.iterdir()) == ["Sim1Snr1", "Sim1Snr1GT", "Sim2Snr1", "Sim2Snr1GT"]
    scans = find_scans(release)
    assert names(scans) == [("Sim1Snr1", True, "Snr1"), ("Sim2Snr1", True, "Snr1")]
    assert int((read_truth(scans[1].folder).labels == 16).sum()) == 12


def test_names_choose(both_stages):
    assert [scan.name for scan in find_scans(both_stages, names=["Sim1", "Sim2Snr1"], stage=2)] == ["Sim1", "Sim2Snr1"]
    with pytest.raises(InputError, match=r"data\.scans is 'Sim1', but must be a list: data\.scans=\[Sim1\]"):
        find_scans(both_stages, names="Sim1")
    with pytest.raises(InputError, match=r"holds no scan 'Sim3'; it holds Sim1Snr1"):
        find_scans(both_stages / "DatasetsStep2", names=["Sim3"])


def test_every_missing_file_is_named(release):
    (release / "Sim1Snr1" / "Magnitude.nii.gz").unlink()
    (release / "Sim2Snr1" / "MaskBrainExtracted.nii.gz").unlink()
    (release / "Sim2Snr1" / "GT" / "Segmentation.nii.gz").unlink()
    with pytest.raises(InputError, match=r"incomplete: Sim1Snr1 lacks Magnitude in .*; Sim2Snr1 lacks MaskBrainExtracted .*; Sim2Snr1 lacks GT/Segm"):
        find_scans(release)


def test_a_scan_that_lost_its_phase_is_not_overlooked(release):
    (release / "Sim2Snr1" / "Phase.nii.gz").unlink()
    with pytest.raises(InputError, match=r"Sim2Snr1 lacks Phase"):
        find_scans(release)
    shutil.rmtree(release / "Sim2Snr1")
    (release / "Sim2Snr1").mkdir()
    with pytest.raises(InputError, match=r"Sim2Snr1 lacks Phase .*; Sim2Snr1 lacks Magnitude .*; Sim2Snr1 lacks Mask"):
        find_scans(release)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Phase.nii.gz", "phase.nii.gz", r"Sim1Snr1 lacks Phase in .*, where phase\.nii\.gz is: upper and lower case count"),
        ("Phase.nii.gz", "Phase.NII.GZ", r"where Phase\.NII\.GZ is"),
        ("Frequency.nii.gz", "frequency.nii.gz", r"Sim1Snr1 needs Frequency\.nii in .*, where frequency\.nii\.gz is"),
        ("GT", "gt", r"Sim1Snr1 needs GT in .*, where gt is"),
        ("GT/Chi.nii.gz", "GT/chi.nii.gz", r"Sim1Snr1 lacks GT/Chi in .*GT, where chi\.nii\.gz is"),
        ("GT/FilestructureForEval.mat", "GT/FileStructureForEval.mat", r"needs FilestructureForEval\.mat in .*, where FileStructureForEval"),
    ],
)
def test_names_in_other_letters_are_not_overlooked(release, old, new, message):
    """A truth or mask that is not found would leave a scan blind, or scored in another mask, without a word."""
    (release / "Sim1Snr1" / "Frequency.nii.gz").touch()
    (release / "Sim1Snr1" / "GT" / "FilestructureForEval.mat").touch()
    (release / "Sim1Snr1" / old).rename(release / "Sim1Snr1" / new)
    with pytest.raises(InputError, match=message):
        find_scans(release)


def test_a_sibling_truth_in_other_letters(release):
    as_siblings(release)
    (release / "Sim2Snr1GT").rename(release / "Sim2Snr1gt")
    with pytest.raises(InputError, match=r"Sim2Snr1 needs Sim2Snr1GT in .*, where Sim2Snr1gt is"):
        find_scans(release)


def test_a_scan_of_any_name_in_other_letters(release):
    (release / "Sim1Snr1").rename(release / "Head")
    for path in list((release / "Head").iterdir()):
        path.rename(path.with_name(path.name.lower()))
    with pytest.raises(InputError, match=r"Head lacks Phase .*; Head lacks Magnitude .*; Head lacks Mask.*; Head needs GT"):
        find_scans(release)


@pytest.mark.parametrize("name", ["Magnitude", "GT/Chi"])
def test_a_volume_in_two_types_is_refused(release, name):
    """Before anything is computed, also where it is a truth, which may not be opened yet."""
    (release / "Sim1Snr1" / f"{name}.nii").touch()
    with pytest.raises(InputError, match=rf"Sim1Snr1 holds both {name.removeprefix('GT/')}\.nii and .*\.nii\.gz in"):
        find_scans(release)


def test_a_truth_without_map_is_incomplete(release):
    (release / "Sim1Snr1" / "GT" / "Chi.nii.gz").unlink()
    with pytest.raises(InputError, match=r"Sim1Snr1 lacks GT/Chi in .*GT"):
        find_scans(release)


def test_one_name_twice_is_refused(release):
    shutil.copytree(release / "Sim1Snr1", release / "copy" / "Sim1Snr1")
    with pytest.raises(InputError, match=r"two scans Sim1Snr1: .*/r/Sim1Snr1 and .*copy/Sim1Snr1"):
        find_scans(release)


def test_folders_without_scans(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        find_scans(tmp_path / "nowhere")
    (tmp_path / "notes").mkdir()
    with pytest.raises(InputError, match="holds no scan"):
        find_scans(tmp_path)


def test_sim2_needs_its_calcification(release, sample):
    sim1, sim2 = find_scans(release)
    check_truth(sim1, sample[1])
    check_truth(sim2, with_calcification(sample[1]))
    with pytest.raises(InputError, match=r"Sim2Snr1 has no calcification: label 16 does not occur in Segmentation of .*GT"):
        check_truth(sim2, sample[1])
    shutil.rmtree(release / "Sim2Snr1")
    write_scans(release, (sample[0], sample[1]), ["Sim1"])
    (release / "Sim1").rename(release / "Sim2")
    with pytest.raises(InputError, match="no calcification"):
        release_cases(root=release, scans=["Sim2"])


def test_builtin_heads_become_a_release(tmp_path, sample, monkeypatch):
    drawn = []

    def render(recipe, params):
        drawn.append(params)
        return sample[0], with_calcification(sample[1])

    monkeypatch.setattr("qsmdl.challenge.cases.render_volume", render)
    write_builtin_release(tmp_path, stage=2, voxel_size_mm=5.0)
    assert [scan.name for scan in find_scans(tmp_path, stage=2)] == ["Sim1Snr1", "Sim1Snr2", "Sim2Snr1", "Sim2Snr2"]
    assert [p.peak_snr for p in drawn] == pytest.approx([100, 100, 1000, 1000])
    assert len({p.head_seed for p in drawn}) == 1
    assert drawn[0].noise_seed != drawn[2].noise_seed
    write_builtin_release(tmp_path, stage=2, voxel_size_mm=5.0)
    assert len(drawn) == 4  # all were there
    with pytest.raises(InputError, match="simulated with other settings"):
        write_builtin_release(tmp_path, stage=2, voxel_size_mm=5.5)
    monkeypatch.setattr("qsmdl.challenge.cases.render_volume", lambda *_: sample)
    with pytest.raises(InputError, match=r"At 7 mm the calcification of Sim2 falls between"):
        write_builtin_release(tmp_path / "coarse", stage=1, voxel_size_mm=7.0)


def test_the_sample_is_what_these_tests_take_it_for(sample):
    assert not torch.any(sample[1].labels == 16)
    assert bool(sample[1].mask[14:16, 22:25, 24:26].all())
