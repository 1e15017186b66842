"""qsmdl heldout: rows as they come, a command that goes on, and what it refuses."""

import functools

import matplotlib.image
import numpy as np
import pytest
import torch
from refused_commands import fails

from qsmdl.challenge.cases import field_of
from qsmdl.challenge.code import code_digest
from qsmdl.challenge.heldout import held_out_head
from qsmdl.challenge.metrics import score
from qsmdl.challenge.regression import fit_line
from qsmdl.cli import heldout_runs
from qsmdl.cli.build import method_from_command_line
from qsmdl.cli.main import main
from qsmdl.data.recipe import render_phantom, scan_phantom
from qsmdl.io.files import read_json
from qsmdl.physics.unring import unring
from qsmdl.solvers import large_scales

COARSE_MM = 6.0
BROKEN = '''
from pathlib import Path

from qsmdl.scan import ChiMap, FieldMap, Outcome


def fragile(field: FieldMap, *, flag: str = "") -> ChiMap:
    """Breaks where a file says so."""
    how = Path(flag).read_text()
    with Path(flag).with_suffix(".calls").open("a") as calls:
        calls.write("x")
    if how == "stop":
        raise KeyboardInterrupt
    if how == "error":
        raise ZeroDivisionError("by nothing")
    return ChiMap(field.geometry, field.field_ppm, field.mask, Outcome(1, "done", 0.0))
'''

_rendered = functools.cache(render_phantom)


@pytest.fixture(autouse=True)
def renderings(monkeypatch):
    """Heads are rendered once a session; which were asked for."""
    asked = []

    def render(recipe, params):
        asked.append(params.name)
        return _rendered(recipe, params)

    monkeypatch.setattr(heldout_runs, "render_phantom", render)
    return asked


@pytest.fixture
def no_figure(monkeypatch):
    """Drawing takes longer than everything else."""
    monkeypatch.setattr(heldout_runs, "save_figure", lambda *words, **others: None)


@pytest.fixture
def fragile(tmp_path, monkeypatch):
    """A method whose flag tells it to work, to fail or to be interrupted."""
    folder = tmp_path / "own"
    (folder / "method").mkdir(parents=True)
    (folder / "fragile_methods.py").write_text(BROKEN)
    flag = folder / "flag.txt"
    (folder / "method" / "fragile.yaml").write_text(f"# @package method.fragile\n_target_: fragile_methods.fragile\nflag: {flag}\n")
    monkeypatch.setenv("QSMDL_METHODS", str(folder))
    return flag


def run(out, *words, methods=("l2", "tkd"), snrs=(30, 1000), n=2):
    main(["heldout", str(out), "--methods", *methods, "--voxel-size", str(COARSE_MM), "--phantoms", str(n), "--snr", *map(str, snrs), *words])


def written(out):
    return {path.name: path.stat().st_mtime_ns for path in (out / "rows").iterdir()}


def test_a_study_that_grows(tmp_path, capsys, renderings):
    """What is there is kept, whatever is added; a head is rendered once for all SNRs, and only where something is missing."""
    out = tmp_path / "study"
    run(out, n=1)
    first, page = written(out), capsys.readouterr().out
    assert set(first) == {f"Sim1_00_snr{snr}_{method}.json" for snr in (30, 1000) for method in ("l2", "tkd")}
    assert renderings == ["Sim1_00"]
    assert page == (out / "heldout.md").read_text()
    assert "Candidate: l2." in page
    assert "qsmdl heldout study --methods l2 tkd --phantoms 1 --snr 30 1000 --voxel-size 6 --seed 5000" in page
    assert str(tmp_path) not in page
    rows = read_json(out / "rows.json")
    assert [(row["method"], row["scan"]) for row in rows[:4]] == [(name, "Sim1_00_snr30") for name in ("l2", "l2+unring", "tkd", "tkd+unring")]
    assert len(rows) == 8

    run(out, "--set", "soft.threshold=0.3", methods=("soft=tkd", "l2", "tkd"), snrs=(30, 300, 1000), n=2)
    assert {name: time for name, time in written(out).items() if name in first} == first
    assert len(written(out)) == 18
    assert [row for row in read_json(out / "rows.json") if row["peak_snr"] != 300 and row["phantom"] < 1 and "soft" not in row["method"]] == rows
    assert renderings == ["Sim1_00", "Sim1_00", "Sim2_01"]
    assert "Candidate: soft." in capsys.readouterr().out
    assert matplotlib.image.imread(out / "heldout.png").std() > 0.01

    figure = (out / "heldout.png").read_bytes()
    run(out, n=1)
    assert len(renderings) == 3
    assert capsys.readouterr().out == page
    assert (out / "heldout.png").read_bytes() != figure  # the page and the figure are of the methods that were asked for


@pytest.mark.usefixtures("no_figure")
def test_a_study_that_is_shared_out(tmp_path, capsys, renderings):
    run(tmp_path, "--only", "1", n=3, snrs=(30,))
    assert renderings == ["Sim2_01"]
    assert set(written(tmp_path)) == {"Sim2_01_snr30_l2.json", "Sim2_01_snr30_tkd.json"}
    assert not (tmp_path / "heldout.md").exists()
    assert "without --only compares" in capsys.readouterr().err
    run(tmp_path, "--only", "2", "0", n=3, snrs=(30,))
    assert renderings == ["Sim2_01", "Sim1_02", "Sim1_00"]
    run(tmp_path, n=3, snrs=(30,))
    assert len(renderings) == 3
    assert len(read_json(tmp_path / "rows.json")) == 12


@pytest.mark.usefixtures("no_figure")
def test_the_rows_are_those_of_the_maps(tmp_path):
    """Against everything made by hand: the map, its scores, the same map unrung, and the slopes."""
    run(tmp_path, n=1, snrs=(100,))
    rows = {row["method"]: row for row in read_json(tmp_path / "rows.json")}
    head = held_out_head(0, voxel_size_mm=COARSE_MM)
    scan, truth = scan_phantom(head.recipe, head.at(100.0), _rendered(head.recipe, head.params))
    chi = method_from_command_line("tkd")(field_of(scan), scan).chi_ppm
    for name, made in (("tkd", chi), ("tkd+unring", torch.where(scan.mask, unring(chi), 0.0))):
        assert rows[name]["metrics"] == pytest.approx(score(made, truth.chi_ppm, truth.mask, truth.labels), nan_ok=True)
        inside = truth.mask.numpy()
        slope, _ = fit_line(truth.chi_ppm.double().numpy()[inside], made.double().numpy()[inside])
        assert rows[name]["slopes"]["mask"] == pytest.approx(slope, rel=1e-9)
        assert rows[name]["slopes"]["mask"] == pytest.approx(np.polyfit(truth.chi_ppm.numpy()[inside], made.numpy()[inside], 1)[0], rel=1e-3)
    row = rows["tkd+unring"]
    assert (row["phantom"], row["peak_snr"], row["traits"], row["kind"]) == (0, 100.0, [], "direct")


@pytest.mark.usefixtures("no_figure")
def test_rows_of_other_code_are_told_and_kept(tmp_path, capsys, monkeypatch):
    """Not every change of the code changes a map: whoever reads the page is told, and decides."""
    run(tmp_path, n=1, snrs=(30,), methods=("l2",))
    assert {row["code"] for row in read_json(tmp_path / "rows.json")} == {code_digest()}
    assert f"one state of qsmdl's code ({code_digest()})" in capsys.readouterr().out
    monkeypatch.setattr(heldout_runs, "code_digest", lambda: "later")
    run(tmp_path, n=1, snrs=(30,))
    assert f"rows by state: {code_digest()} 2, later 2." in capsys.readouterr().out


@pytest.mark.usefixtures("no_figure")
def test_other_settings_are_refused_before_anything_runs(tmp_path, capsys, renderings):
    run(tmp_path, n=1, snrs=(30,))
    before = written(tmp_path)
    renderings.clear()
    words = ["heldout", tmp_path, "--methods", "l2", "tkd", "--voxel-size", COARSE_MM, "--phantoms", 2, "--snr", 30]
    told = fails(capsys, *words, "--set", "tkd.threshold=0.1")
    assert "settings.threshold was 0.2 and is now 0.1" in told
    assert "--again NAME" in told
    assert "volume.shape was [27, 34, 34] and is now [23, 29, 29]" in fails(capsys, *words, "--voxel-size", 7)
    assert (renderings, written(tmp_path)) == ([], before)
    run(tmp_path, "--set", "tkd.threshold=0.1", "--again", "tkd", n=1, snrs=(30,))
    assert [name for name, time in written(tmp_path).items() if before[name] != time] == ["Sim1_00_snr30_tkd.json"]


@pytest.mark.usefixtures("no_figure")
def test_weights_of_another_network_are_other_settings(tmp_path, capsys, fragile):
    """Whatever file a setting names: fragile's flag stands for weights here."""
    fragile.write_text("work")
    run(tmp_path / "out", methods=("fragile", "l2"), n=1, snrs=(30,))
    fragile.write_text("other")
    words = ["--voxel-size", COARSE_MM, "--phantoms", 1, "--snr", 30]
    assert "files_sha256.flag was" in fails(capsys, "heldout", tmp_path / "out", "--methods", "fragile", "l2", *words)


@pytest.mark.usefixtures("no_figure")
def test_a_method_that_fails_is_left_out_and_tried_again(tmp_path, capsys, fragile):
    fragile.write_text("error")
    run(tmp_path / "out", methods=("l2", "fragile", "tkd"), n=1, snrs=(30,))
    page = capsys.readouterr().out
    assert "- fragile: ZeroDivisionError: by nothing (on Sim1_00_snr30)" in page
    assert "fragile |" not in page
    assert set(written(tmp_path / "out")) == {"Sim1_00_snr30_l2.json", "Sim1_00_snr30_tkd.json"}
    fragile.write_text("work")
    run(tmp_path / "out", methods=("l2", "fragile", "tkd"), n=1, snrs=(30,))
    assert "Left out" not in capsys.readouterr().out


@pytest.mark.usefixtures("no_figure")
def test_an_interruption_loses_nothing(tmp_path, capsys, fragile):
    fragile.write_text("stop")
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "out", methods=("l2", "fragile"), n=1, snrs=(30, 100))
    assert stop.value.code == 130
    before = written(tmp_path / "out")
    assert set(before) == {"Sim1_00_snr30_l2.json"}
    fragile.write_text("work")
    run(tmp_path / "out", methods=("l2", "fragile"), n=1, snrs=(30, 100))
    after = written(tmp_path / "out")
    assert len(after) == 4
    assert after["Sim1_00_snr30_l2.json"] == before["Sim1_00_snr30_l2.json"]


@pytest.mark.usefixtures("no_figure")
def test_a_method_that_unrings_has_one_row(tmp_path):
    run(tmp_path, "--set", "l2.unring=true", n=1, snrs=(30,))
    assert [row["method"] for row in read_json(tmp_path / "rows.json")] == ["l2", "tkd", "tkd+unring"]


@pytest.mark.usefixtures("no_figure")
def test_methods_that_differ_in_their_steps_alone_are_solved_once(tmp_path, fragile, monkeypatch):
    monkeypatch.setattr(large_scales, "MOST_UNEXPLAINED", float("inf"))  # so that mending changes the map
    fragile.write_text("work")
    several = ("fragile", "plain=fragile", "smooth=fragile", "mended=fragile")
    run(tmp_path, "--set", "smooth.unring=true", "mended.unring=true", "mended.large_scales=true", n=1, snrs=(30,), methods=several)
    assert fragile.with_suffix(".calls").read_text() == "x"
    rows = {row["method"]: row for row in read_json(tmp_path / "rows.json")}
    assert rows["plain"]["metrics"] == rows["fragile"]["metrics"]
    assert rows["smooth"]["metrics"] == rows["fragile+unring"]["metrics"]
    assert rows["mended"]["metrics"]["rmse"] != rows["smooth"]["metrics"]["rmse"]
    assert all(row["seconds"] >= rows["fragile"]["seconds"] for row in rows.values())
    # alone, where nothing can be shared
    run(tmp_path / "alone", "--set", "mended.unring=true", "mended.large_scales=true", n=1, snrs=(30,), methods=several[3:])
    (alone,) = read_json(tmp_path / "alone" / "rows.json")
    assert alone["metrics"] == rows["mended"]["metrics"]
    assert fragile.with_suffix(".calls").read_text() == "xx"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "l3"], "There is no method 'l3'"),
        (["--methods", "l2", "l2"], "names l2 twice"),
        (["--methods", "l2", "a-b=tkd"], "'a-b' names no method"),
        (["--methods", "cosmos"], "cosmos wants several orientations"),
        (["--methods", "l2", "--candidate", "tkd"], "--candidate tkd is not among --methods l2"),
        (["--methods", "l2", "--candidate", "l2+unring", "--set", "l2.unring=true"], "l2 removes ringing itself"),
        (["--methods", "l2", "--set", "tkd.threshold=1"], "not of the form NAME.KEY=VALUE with one of the methods l2"),
        (["--methods", "l2", "--again", "tkd"], "--again tkd is not among --methods l2"),
        (["--methods", "l2", "--phantoms", "0"], "--phantoms is 0"),
        (["--methods", "l2", "--phantoms", "2", "--only", "0", "2"], "--only 2 is not among the 2 phantoms"),
        (["--methods", "l2", "--snr", "30", "30"], "each finite and once"),
        (["--methods", "l2", "--voxel-size", "0"], "voxel_size_mm is 0.0"),
        (["--methods", "l2", "--seed", "-1"], "seed is -1"),
    ],
)
def test_wrong_words_are_named(tmp_path, capsys, words, message):
    assert message in fails(capsys, "heldout", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_figure")
def test_rows_that_are_none(tmp_path, capsys):
    run(tmp_path, n=1, snrs=(30,))
    (tmp_path / "rows" / "Sim1_00_snr30_l2.json").write_text("[]")
    words = ["--methods", "l2", "tkd", "--voxel-size", COARSE_MM, "--phantoms", 1, "--snr", 30]
    assert "does not hold rows of a held-out study" in fails(capsys, "heldout", tmp_path, *words)
