"""qsmdl score and qsmdl simulate --conventions on files."""

import json

import nibabel as nib
import numpy as np
import pytest
from qsm_ci.qsm_eval import score_arrays
from scoring_cases import golden

from qsmdl.challenge.metrics import ADDITIONAL_METRICS
from qsmdl.cli.main import main


@pytest.fixture(scope="module")
def case():
    return golden.volumes()


@pytest.fixture
def files(case, tmp_path):
    """The command's words for the golden case "streaky"; a test may damage the files."""
    truth, mask, segmentation, recons = case
    for name, volume in {"chi": recons["streaky"], "Chi_crop": truth, "mask": mask, "seg": segmentation}.items():
        write(tmp_path / f"{name}.nii", volume)
    options = {"truth": "Chi_crop", "mask": "mask", "segmentation": "seg"}
    return ["score", str(tmp_path / "chi.nii"), *(w for o, f in options.items() for w in (f"--{o}", str(tmp_path / f"{f}.nii")))]


def write(path, volume, dtype=np.float64, voxel_mm=1.0):
    volume = volume.astype(np.uint8 if volume.dtype in (bool, np.uint8) else dtype)
    nib.save(nib.Nifti1Image(volume, np.diag([voxel_mm, 1.0, 1.0, 1.0])), path)


def printed(capsys, *words):
    capsys.readouterr()
    main([str(w) for w in words])
    return capsys.readouterr().out


def fails(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main([str(w) for w in words])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_json_of_one_dialect_is_flat_and_says_what_it_is(files, capsys):
    found = json.loads(printed(capsys, *files, "--json"))
    assert {k: found.pop(k) for k in ("dialect", "truth", "convention")} == {"dialect": "rc2", "truth": files[3], "convention": "crop"}
    assert found == pytest.approx(golden.GOLDEN["streaky"], rel=1e-6, abs=1e-9)


def test_json_of_all_dialects(files, case, capsys):
    truth, mask, segmentation, recons = case
    found = json.loads(printed(capsys, *files, "--dialect", "all", "--additional", "--json"))
    assert list(found) == ["rc2", "qsm-ci", "corrected"]
    for dialect, scores in found.items():
        assert scores["dialect"] == dialect
        assert set(ADDITIONAL_METRICS) <= set(scores)
    expected, _ = score_arrays(recons["streaky"], truth, mask, seg=segmentation.astype(np.int32))
    assert found["qsm-ci"]["rmse_detrend"] == pytest.approx(expected["nrmse_detrend"], rel=1e-9)
    assert found["qsm-ci"]["SSIM"] is None
    assert found["rc2"]["HFEN"] == pytest.approx(golden.GOLDEN_ADDITIONAL["streaky"]["HFEN"], rel=1e-6)


def test_scaled_integers_are_read_without_rounding(files, case, tmp_path, capsys):
    truth, mask, segmentation, recons = case
    image = nib.Nifti1Image(np.round(recons["streaky"] * 7919).astype(np.int16), np.eye(4))
    image.header.set_slope_inter(1 / 7919, 0.001)
    nib.save(image, tmp_path / "chi.nii")
    stored = nib.load(tmp_path / "chi.nii").get_fdata()
    expected, _ = score_arrays(stored, truth, mask, seg=segmentation.astype(np.int32))
    found = json.loads(printed(capsys, *files, "--dialect", "qsm-ci", "--json"))
    assert found["rmse"] == pytest.approx(expected["nrmse"], rel=1e-12)


def test_tables_name_dialect_truth_and_convention(files, capsys):
    one = printed(capsys, *files)
    assert "dialect rc2" in one
    assert "released code" in one
    assert "19.91" in one
    assert "XSIM" not in one
    text = printed(capsys, *files, "--dialect", "all", "--additional")
    for words in ("dialect rc2", "dialect qsm-ci", "dialect corrected", "Why they differ", "magic-angle cone", "undefined", "higher is better"):
        assert words in text
    flat = text.replace("\n", "")
    assert "Chi_crop.nii" in flat
    assert "convention: crop" in flat


def test_maps_in_another_unit_are_named_with_the_factor(files, case, tmp_path, capsys):
    write(tmp_path / "chi.nii", 1000 * case[3]["streaky"])
    error = fails(capsys, *files, "--json")
    assert "chi.nii is not in ppm" in error
    assert "ppb (factor 1000)" in error
    write(tmp_path / "chi.nii", 42.577 * 3 * case[3]["streaky"])
    assert "Hz at 3 T (factor 127.7" in fails(capsys, *files, "--b0", "3")


def test_missing_labels_stop_unless_allowed(files, case, tmp_path, capsys, caplog):
    write(tmp_path / "seg.nii", np.where(case[2] == 4, 8, case[2]).astype(np.uint8))
    assert "seg.nii holds no red nucleus (4)" in fails(capsys, *files)
    found = json.loads(printed(capsys, *files, "--allow-missing-labels", "--json"))
    assert found["DeviationFromLinearSlope"] is None
    assert found["rmse"] is not None


def test_a_sim2_without_calcification_stops(files, case, tmp_path, capsys):
    assert json.loads(printed(capsys, *files, "--scan", "Sim2Snr1", "--json"))["CalcStreak"] is not None
    write(tmp_path / "seg.nii", np.where(case[2] == 16, 8, case[2]).astype(np.uint8))
    assert "said to belong to Sim2Snr1, but holds no calcification" in fails(capsys, *files, "--scan", "Sim2Snr1")
    assert json.loads(printed(capsys, *files, "--scan", "Sim1", "--json"))["CalcStreak"] is None
    assert "Pass one of the two" in fails(capsys, *files, "--scan", "Sim2", "--allow-missing-labels")


def test_other_bad_input_is_named(files, case, tmp_path, capsys):
    write(tmp_path / "mask.nii", np.zeros_like(case[1]))
    assert "mask.nii is empty" in fails(capsys, *files)
    write(tmp_path / "mask.nii", case[1][1:])
    error = fails(capsys, *files)
    assert "mask.nii has the shape (59, 56, 52), but" in error
    assert "Chi_crop.nii has (60, 56, 52)" in error
    assert "invalid choice: 'rc3'" in fails(capsys, *files, "--dialect", "rc3")
    write(tmp_path / "mask.nii", case[1])
    assert "must have length 1" in fails(capsys, *files, "--additional", "--b0-direction", "0", "0", "2")


def test_voxel_sizes_that_differ_are_said(files, case, tmp_path, capsys, caplog):
    write(tmp_path / "chi.nii", case[3]["streaky"], voxel_mm=1.5)
    printed(capsys, *files, "--json")
    assert "chi.nii has voxels of (1.5, 1.0, 1.0) mm" in caplog.text


def test_a_map_on_a_turned_grid_stops(files, case, tmp_path, capsys):
    turned = nib.Nifti1Image(case[3]["streaky"][::-1], np.diag([-1.0, 1.0, 1.0, 1.0]))
    nib.save(turned, tmp_path / "chi.nii")
    assert "chi.nii lies on another grid" in fails(capsys, *files)


def test_a_truth_may_be_undefined_outside_the_mask_only(files, case, tmp_path, capsys):
    truth = case[0].copy()
    truth[0, 0, 0] = np.nan
    write(tmp_path / "Chi_crop.nii", truth)
    assert json.loads(printed(capsys, *files, "--json"))["rmse"] == pytest.approx(golden.GOLDEN["streaky"]["rmse"])
    truth[30, 28, 26] = np.inf
    write(tmp_path / "Chi_crop.nii", truth)
    assert "Chi_crop.nii holds 1 NaN or infinite values inside the mask" in fails(capsys, *files)


def test_simulate_writes_the_other_conventions(tmp_path, capsys):
    words = ["simulate", str(tmp_path / "out"), "--seed", "3", "--voxel-size", "6", "--contrast", "sim2", "--conventions"]
    assert "Pass one of the two" in fails(capsys, *words, "--no-truth")
    main(words)
    ground, scan = tmp_path / "out" / "Sim2" / "GT", tmp_path / "out" / "Sim2"
    assert sorted(p.name for p in ground.iterdir()) == ["Chi.nii.gz", "Chi_cell.nii.gz", "Chi_crop.nii.gz", "Segmentation.nii.gz"]
    fixed = ["--mask", scan / "MaskBrainExtracted.nii.gz", "--segmentation", ground / "Segmentation.nii.gz", "--json"]
    found = {}
    for name in ("Chi", "Chi_crop", "Chi_cell"):
        result = json.loads(printed(capsys, "score", ground / "Chi.nii.gz", "--truth", ground / f"{name}.nii.gz", *fixed))
        found[result["convention"]] = result["rmse"]
    assert found["release"] == 0
    assert min(found["crop"], found["cell"]) > 10
