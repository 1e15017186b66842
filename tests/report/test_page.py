import base64
import hashlib
import html
import json
import re

import nibabel as nib
import numpy as np
import pytest
from pages import HOSTILE, METHODS, Reader, make_run

from qsmdl.challenge.metrics import METRICS
from qsmdl.challenge.ratings import Rating
from qsmdl.errors import InputError
from qsmdl.io.nifti import write_volume
from qsmdl.report.embedding import TEMPLATES, VENDOR
from qsmdl.report.page import LARGEST_BYTES, write_report
from qsmdl.report.volumes import STEP_PPM, crop_to


@pytest.fixture(scope="module")
def made(tmp_path_factory, sample, small_grids):
    folder = tmp_path_factory.mktemp("run")
    maps = make_run(folder, sample)
    written = write_report(folder / "report.html", folder)
    return folder, maps, written, Reader(written.path.read_text(encoding="utf-8"))


def test_nothing_is_loaded_from_anywhere(made):
    page = made[3]
    for tag, attributes in page.elements:
        for name in ("src", "srcset", "data", "poster", "action", "formaction"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
        if tag in ("link", "a"):
            assert attributes["href"].startswith(("data:", "#"))
    assert not any(tag in ("iframe", "object", "embed", "base", "form") for tag, _ in page.elements)
    style = (TEMPLATES / "page.css").read_text()
    assert "@import" not in style
    assert "url(" not in style


def test_the_policy_allows_the_scripts_of_the_page_alone(made):
    page = made[3]
    policy = next(attributes["content"] for tag, attributes in page.elements if attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "unsafe-inline'" not in policy.split("style-src")[0]
    running = [text for attributes, text in page.scripts if attributes.get("type") is None]
    hashes = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in running}
    assert set(re.findall(r"'sha256-([^']+)'", policy)) == hashes
    assert len(running) == 5
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)


def test_the_viewer_is_the_published_file():
    licence = (VENDOR / "LICENSE-niivue.txt").read_text()
    assert hashlib.sha256((VENDOR / "niivue.umd.js").read_bytes()).hexdigest() in licence
    assert "BSD 2-Clause" in licence


def test_the_volumes_are_the_maps(made, sample):
    _, maps, written, page = made
    mask = sample[1].mask.numpy()
    box = crop_to(mask)
    assert written.step_ppm == pytest.approx(STEP_PPM, rel=0.5)
    for scan in page.data["scans"]:
        assert [one["name"] for one in scan["maps"]] == list(METHODS)
        for one in scan["maps"]:
            image = page.volume(one["volume"])
            np.testing.assert_allclose(image.get_fdata(), maps[scan["name"]][one["name"]][box], atol=written.step_ppm * 0.51)
        np.testing.assert_allclose(page.volume(scan["truth"]).get_fdata(), (sample[1].chi_ppm.numpy() * mask)[box], atol=written.step_ppm * 0.51)
        np.testing.assert_array_equal(page.volume(scan["mask"]).get_fdata(), mask[box])
        labels = (sample[1].labels.numpy() * mask)[box]
        assert (page.volume(scan["labels"]).get_fdata() != labels).sum() == 1  # the calcification that `make_run` adds
        to_voxel = np.array(scan["mm_to_voxel"])
        np.testing.assert_allclose(to_voxel @ image.affine @ [3, 4, 5, 1], [3, 4, 5], atol=1e-9)


def test_the_table_holds_every_row_with_units_and_dialect(made):
    page, rows = made[3], json.loads((made[0] / "rows.json").read_text())
    lines = [attributes for tag, attributes in page.elements if tag == "tr" and "data-scan" in attributes]
    assert len(lines) == len(rows) + len(METHODS)  # and the means
    words = " ".join(page.words)
    for metric in METRICS.values():
        assert metric.short in words
        assert metric.unit == "1" or metric.unit in words
    assert "Dialect rc2: as the challenge's released code computes." in words
    assert f"{rows[0]['metrics']['rmse']:.1f}" in words
    values = {attributes.get("data-value") for tag, attributes in page.elements if tag == "td"}
    assert str(rows[0]["metrics"]["rmse"]) in values
    assert page.data["scans"][0]["maps"][0]["nrmse"] == pytest.approx(rows[0]["metrics"]["rmse"], rel=1e-5)


def test_montages_stand_in_for_the_panes(made):
    pictures = [a for tag, a in made[3].elements if tag == "img"]
    assert [a["alt"] for a in pictures[:2]] == ["Montage Sim1", "Montage Sim2"]
    for attributes in pictures[:2]:
        assert base64.b64decode(attributes["src"].removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")


def test_the_figures_of_its_own_rows_are_drawn(made):
    page = made[3]
    captions = [a["alt"] for tag, a in page.elements if tag == "img"][2:]
    shown = ("NRMSE of Sim1 and Sim2, stage 1", "Selected metrics against each other, stage 1", "The lowest NRMSE (up to five algorithms)")
    assert [caption.startswith(words) for caption, words in zip(captions, shown, strict=True)] == [True] * 3
    words = " ".join(page.words)
    assert "correlations_stage1: A correlation needs at least 3 algorithms with an NRMSE below 80 %" in words
    assert "nrmse_snr1_snr2: Scores of stage 2 at both noise levels" in words


def test_provenance(made):
    folder, page = made[0], made[3]
    words = " ".join(page.words)
    for name in ("qsmdl", "PyTorch", "NumPy", "NiiVue 0.69.0", "kept by the evaluation", "mask of the metrics"):
        assert name in words
    assert hashlib.sha256((folder / "maps" / "Sim2_tv.nii.gz").read_bytes()).hexdigest() in words
    assert "</pre><script>alert(3)</script>" in words  # as text
    assert str(folder.parent) not in made[2].path.read_text(encoding="utf-8")


def test_size(made):
    own = made[2].n_bytes - (VENDOR / "niivue.umd.js").stat().st_size
    assert own < 3 * 10**6 < LARGEST_BYTES


def test_hostile_names_stay_text(tmp_path, sample):
    make_run(tmp_path, sample, methods=HOSTILE, scans=("Sim2 <b onclick=x>",))
    stranger = "</td><script>alert(4)</script>"
    ratings = [Rating("<i>r</i>", name, "noise", "Sim2 <b onclick=x>", 1) for name in (HOSTILE[0], stranger)]
    note = tmp_path / "maps" / f"Sim2 <b onclick=x>_{HOSTILE[0]}.json"
    note.write_text(json.dumps({"made_from": {"</td><script>alert(5)</script>": "\ud800"}}))
    written = write_report(tmp_path / "r.html", tmp_path, ratings=ratings, with_rating=True)
    text = written.path.read_text(encoding="utf-8")
    page = Reader(text)
    assert [one["name"] for one in page.data["scans"][0]["maps"]] == list(HOSTILE)
    assert not {"i", "b"} & {tag for tag, _ in page.elements}
    assert all(a["src"].startswith(("data:image/png", "data:image/svg+xml")) for tag, a in page.elements if tag == "img")
    assert len([1 for attributes, _ in page.scripts if attributes.get("type") is None]) == 7
    for name in (*HOSTILE, stranger):
        assert html.escape(name, quote=False) in text or html.escape(name).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in text
        assert name not in text


def test_rows_alone_may_hold_any_name(tmp_path, sample):
    make_run(tmp_path, sample, scans=("Sim1",))
    rows = json.loads((tmp_path / "rows.json").read_text())
    rows[0]["method"] = "</script><script>alert(1)</script>"
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match="no file name"):
        write_report(tmp_path / "r.html", tmp_path)
    text = write_report(tmp_path / "r.html", tmp_path, with_maps=False).path.read_text(encoding="utf-8")
    assert rows[0]["method"] not in text
    page = Reader(text)
    assert len(page.scripts) == 1  # sorting; no data, no viewer
    assert "niivue" not in page.scripts[0][1]


def break_map(folder):
    (folder / "maps" / "Sim1_tv.nii.gz").unlink()


def break_grid(folder):
    write_volume(folder / "maps" / "Sim1_tv.nii.gz", np.ones((3, 4, 5), np.float32), overwrite=True)


def break_rows(folder):
    (folder / "rows.json").write_text("[]")


def break_affine(folder):
    path = folder / "maps" / "Sim1_tv.nii.gz"
    write_volume(path, nib.load(path).get_fdata(), affine=np.diag([-5.0, 5, 5, 1]), overwrite=True)


def remove_maps(folder):
    (folder / "maps").rename(folder / "elsewhere")


def truncate(folder):
    path = folder / "maps" / "Sim1_tv.nii.gz"
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_map, "row of tv on Sim1, but .*Sim1_tv.nii.gz does not exist"),
        (break_grid, r"Sim1_tv.nii.gz has the shape \(3, 4, 5\)"),
        (break_rows, "holds no rows"),
        (break_affine, "lie differently in space"),
        (remove_maps, "holds no folder maps"),
        (truncate, "Sim1_tv.nii.gz could not be read"),
    ],
)
def test_bad_folders_leave_no_report(tmp_path, sample, damage, message):
    make_run(tmp_path, sample, scans=("Sim1",))
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        write_report(tmp_path / "out" / "r.html", tmp_path)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_bad_truths_and_targets(tmp_path, sample):
    run, other = tmp_path / "run", tmp_path / "other"
    run.mkdir()
    other.mkdir()
    make_run(run, sample, scans=("Sim1",))
    with pytest.raises(InputError, match="holds no truth of Sim1"):
        write_report(tmp_path / "r.html", run, release=other)
    for path in (run / "truth" / "Sim1").rglob("*.nii.gz"):
        target = other / "Sim1" / path.relative_to(run / "truth" / "Sim1")
        write_volume(target, np.ones((6, 5, 4), np.uint8))
    with pytest.raises(InputError, match=r"truth of Sim1 has the shape \(6, 5, 4\)"):
        write_report(tmp_path / "r.html", run, release=other)
    with pytest.raises(InputError, match=r"does not end in \.html"):
        write_report(tmp_path / "r.pdf", run)
    (tmp_path / "r.html").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        write_report(tmp_path / "r.html", run)
    assert (tmp_path / "r.html").read_text() == "mine"
    with pytest.raises(InputError, match="is not a folder"):
        write_report(tmp_path / "s.html", tmp_path / "none")
    with pytest.raises(InputError, match=r"no rows\.json"):
        write_report(tmp_path / "s.html", tmp_path)


def test_a_release_gives_the_truth(tmp_path, sample):
    make_run(tmp_path, sample, scans=("Sim1",))
    (tmp_path / "truth").rename(tmp_path / "RELEASE")
    page = Reader(write_report(tmp_path / "r.html", tmp_path, release=tmp_path / "RELEASE").path.read_text(encoding="utf-8"))
    assert page.data["scans"][0]["truth"] is not None
    assert "release folder RELEASE" in " ".join(page.words)
