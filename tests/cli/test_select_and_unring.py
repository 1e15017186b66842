"""`select` and `unring` on the command line: qsmdl reconstruct, evaluate.py, the stages, and tuning."""

import json
import os

import nibabel as nib
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from small_releases import STAGE_1, STAGE_2, write_scans

from qsmdl.cli.build import as_override
from qsmdl.cli.catalogue import config_folder
from qsmdl.cli.evaluate import evaluate
from qsmdl.cli.main import main
from qsmdl.errors import InputError
from qsmdl.physics.unring import unring
from qsmdl.report.table import read_rows

GRID = "[1e-4,3e-4,1e-3,3e-3,1e-2]"
CHOOSING = ["method=[tkd,tv]", "method.tv.n_iterations=4", "method.tv.select=lcurve", f"method.tv.select_candidates={GRID}", "method.tkd.unring=true"]


def composed(*words):
    with initialize_config_dir(version_base=None, config_dir=os.fspath(config_folder())):
        return compose("evaluate", overrides=[as_override(word) for word in words])


@pytest.fixture(scope="module")
def release(tmp_path_factory, sample):
    root = tmp_path_factory.mktemp("release")
    return write_scans(write_scans(root, sample, STAGE_1), sample, STAGE_2)


def volume(path):
    return nib.load(path).get_fdata().astype(np.float32)


def test_reconstruct(release, tmp_path, capsys):
    scan, out = str(release / "Sim1"), tmp_path / "chi.nii.gz"
    words = ["reconstruct", scan, "--method", "tv", "n_iterations=4", "select=lcurve", f"select_candidates={GRID}"]
    main([*words, "-o", str(out)])
    told = json.loads((tmp_path / "chi.json").read_text())
    chosen = told["chosen"]
    assert chosen["candidates"] == [1e-4, 3e-4, 1e-3, 3e-3, 1e-2] == told["settings"]["select_candidates"]
    assert (chosen["rule"], told["settings"]["select"], told["settings"].get("unring", False)) == ("lcurve", "lcurve", False)
    assert len(chosen["criterion"]) == len(chosen["misfit_ppm"]) == len(chosen["roughness_ppm_per_mm"]) == 5
    picture = tmp_path / "chi_choice.png"
    assert picture.stat().st_size > 10_000
    assert f"regularisation = {chosen['value']:.3g} (lcurve)" in capsys.readouterr().err
    # the chosen setting alone makes the same map, and unring is applied to it
    alone = ["n_iterations=4", f"regularisation={chosen['value']}", "unring=true"]
    main(["reconstruct", scan, "--method", "tv", *alone, "-o", str(tmp_path / "u.nii.gz")])
    mask = volume(release / "Sim1" / "MaskBrainExtracted.nii.gz") > 0
    expected = unring(torch.from_numpy(volume(out))).numpy() * mask
    assert np.allclose(volume(tmp_path / "u.nii.gz"), expected, atol=1e-6)
    out.unlink()
    (tmp_path / "chi.json").unlink()
    with pytest.raises(SystemExit):
        main([*words, "-o", str(out)])
    assert "chi_choice.png exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["select=lcurv"], "did you mean 'lcurve'"),
        (["select=zero", "select_candidates=[1,2]"], "at least 5 different"),
        (["unring=maybe"], "unring is 'maybe'"),
        (["unrng=true"], "did you mean 'unring'"),
    ],
)
def test_wrong_words_are_named(release, tmp_path, capsys, words, message):
    with pytest.raises(SystemExit):
        main(["reconstruct", str(release / "Sim1"), "--method", "tv", "-o", str(tmp_path / "chi.nii.gz"), *words])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_evaluate_tells_what_was_chosen(release, tmp_path, capsys):
    rows = evaluate(composed(f"data.root={release}", "data.scans=[Sim1]", *CHOOSING), tmp_path)
    chosen = {row["method"]: row.get("chosen") for row in rows}
    assert chosen["tkd"] is None
    assert chosen["tv"].endswith("(lcurve)")
    assert read_rows(tmp_path / "rows.json") == rows
    assert chosen["tv"] in (tmp_path / "rows.csv").read_text()
    assert chosen["tv"] in capsys.readouterr().out
    assert (tmp_path / "choice_Sim1_tv.png").stat().st_size > 10_000
    assert not (tmp_path / "choice_Sim1_tkd.png").exists()


def test_stage_1_keeps_what_was_chosen(release, tmp_path):
    words = ["stage=1", f"data.root={release}", *CHOOSING]
    rows = evaluate(composed(*words), tmp_path)
    note = json.loads((tmp_path / "maps" / "Sim2_tv.json").read_text())
    assert note["made_from"]["settings"]["select"] == "lcurve"
    assert note["choice"]["candidates"] == [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
    assert json.loads((tmp_path / "maps" / "Sim2_tkd.json").read_text())["made_from"]["settings"]["unring"] is True
    protocol = json.loads((tmp_path / "protocol.json").read_text())
    told = next(row for row in protocol["rows"] if (row["scan"], row["method"]) == ("Sim2", "tv"))
    assert (told["chosen"], told["chosen_by"]) == ({"regularisation": note["choice"]["value"]}, "lcurve")
    picture = tmp_path / "choice_Sim2_tv.png"
    picture.unlink()
    made = (tmp_path / "maps" / "Sim2_tv.nii.gz").stat().st_mtime_ns
    assert evaluate(composed(*words), tmp_path) == rows
    assert (tmp_path / "maps" / "Sim2_tv.nii.gz").stat().st_mtime_ns == made
    assert picture.exists()
    with pytest.raises(InputError, match=r"unring was True and is now False"):
        evaluate(composed(*words[:-1], "method.tkd.unring=false"), tmp_path)


def test_what_is_chosen_without_truth_is_not_tuned_against_it(release, tmp_path):
    words = ["stage=2", f"data.root={release}", *CHOOSING, "tuning.n_trials=2"]
    with pytest.raises(InputError, match="which chooses regularisation without truth"):
        evaluate(composed(*words), tmp_path / "both")
    rows = evaluate(composed(*words, "search=[tkd]"), tmp_path / "one")
    assert all(row["chosen"].endswith("(lcurve)") for row in rows if row["method"] == "tv")


def test_unring_may_be_tuned(release, tmp_path):
    words = ["stage=2", f"data.root={release}", "data.scans=[Sim1Snr1]", "method=[tkd]", "method.tkd.unring=false"]
    evaluate(composed(*words, "search=[tkd]", "tuning.n_trials=3", "+search.tkd.unring.choices=[true,false]"), tmp_path)
    trials = json.loads((tmp_path / "protocol.json").read_text())["tuned"][0]["trials"]
    assert {type(trial["settings"]["unring"]) for trial in trials} == {bool}
