"""What a report holds where it is asked for: other figures, chosen scans, ratings, a mode to rate in."""

import base64
import hashlib
import json
import re

import pytest
from pages import METHODS, Reader, make_run

from qsmdl.challenge.ratings import SCALES, Rating
from qsmdl.errors import InputError
from qsmdl.report.page import write_report

pytestmark = pytest.mark.usefixtures("small_grids")


def test_dialects_have_figures_of_their_own(tmp_path, sample):
    make_run(tmp_path, sample, scans=("Sim1",), methods=("tkd",))
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    (tmp_path / "rows.json").write_text(json.dumps([row, row | {"dialect": "corrected"}]))
    page = Reader(write_report(tmp_path / "r.html", tmp_path, with_maps=False).path.read_text(encoding="utf-8"))
    captions = [a["alt"] for tag, a in page.elements if tag == "img"]
    assert [caption.split(".")[-2].strip() for caption in captions] == [f"Dialect {name}, truth: release" for name in ("rc2", "corrected")]


def test_maps_of_chosen_scans(tmp_path, sample):
    make_run(tmp_path, sample, methods=("tkd",))
    page = Reader(write_report(tmp_path / "r.html", tmp_path, scans=["Sim2"]).path.read_text(encoding="utf-8"))
    assert [scan["name"] for scan in page.data["scans"]] == ["Sim2"]
    assert len([1 for tag, a in page.elements if tag == "tr" and "data-scan" in a]) == 3  # the table has both scans and their mean
    with pytest.raises(InputError, match=r"no row on 'Sim3'; its scans are Sim1, Sim2.*--scans"):
        write_report(tmp_path / "s.html", tmp_path, scans=["Sim3"])


def test_a_report_to_rate_in_hides_its_results_behind_a_door(tmp_path, sample):
    make_run(tmp_path, sample, scans=("Sim2",))
    written = write_report(tmp_path / "r.html", tmp_path, with_rating=True)
    text = written.path.read_text(encoding="utf-8")
    page = Reader(text)
    assert written.key_path == tmp_path / "r.key.json"
    key = json.loads(written.key_path.read_text())
    assert not set(key["codes"]) & set(Reader(text.split('id="report"')[1]).words)
    content = json.loads(page.script("rating-data"))
    assert content["page"] == key["page"]
    assert {key["codes"][code] for code in content["maps"]} == {*METHODS, "truth"}
    (report,) = [attributes for _, attributes in page.elements if attributes.get("id") == "report"]
    assert "hidden" in report
    assert text.split("<title>")[1].startswith("Visual rating")  # the title names the folder when the door is open
    before = text.split('id="report"')[0].split('id="rating-data"')[0]
    assert not [method for method in METHODS if method in before.split("</style>")[1]]
    running = [script for attributes, script in page.scripts if attributes.get("type") is None]
    policy = next(attributes["content"] for tag, attributes in page.elements if attributes.get("http-equiv") == "Content-Security-Policy")
    assert set(re.findall(r"'sha256-([^']+)'", policy)) == {base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in running}
    with pytest.raises(InputError, match=r"r\.html exists already"):
        write_report(tmp_path / "r.html", tmp_path, with_rating=True)
    with pytest.raises(InputError, match="Leave one of the two out"):
        write_report(tmp_path / "s.html", tmp_path, with_rating=True, with_maps=False)
    written.path.unlink()
    with pytest.raises(InputError, match=r"r\.key\.json exists already"):
        write_report(tmp_path / "r.html", tmp_path, with_rating=True)


def test_ratings_and_their_correlations_are_shown(tmp_path, sample):
    make_run(tmp_path, sample, scans=("Sim1",))
    ratings = [Rating(r, m, c, "Sim1", i + k) for k, r in enumerate("AB") for i, m in enumerate(METHODS) for c in SCALES]
    words = " ".join(Reader(write_report(tmp_path / "r.html", tmp_path, ratings=ratings).path.read_text(encoding="utf-8")).words)
    assert "Agreement of the raters" in words
    assert "1.00 (9)" in words
    assert "were not used" not in words
    others = [Rating("C", "stranger", "noise", "Sim1", 1), Rating("C", "tkd", "noise", "Sim9", 1)]
    words = " ".join(Reader(write_report(tmp_path / "s.html", tmp_path, ratings=[*ratings, *others]).path.read_text(encoding="utf-8")).words)
    assert "ratings of stranger were not used" in words
    assert "ratings on Sim9 were not used" in words
    with pytest.raises(InputError, match="None of the 2 ratings belongs to"):
        write_report(tmp_path / "t.html", tmp_path, ratings=others)


def test_figures_of_the_folder(tmp_path, sample):
    make_run(tmp_path, sample, scans=("Sim1",))
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "spider.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
    (tmp_path / "figures" / "spider.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(500))
    page = Reader(write_report(tmp_path / "r.html", tmp_path, with_maps=False).path.read_text(encoding="utf-8"))
    picture, *_ = [a for tag, a in page.elements if tag == "img"]
    assert picture["src"].startswith("data:image/svg+xml;base64,")  # the smaller of the two; a picture runs no scripts
    (tmp_path / "figures" / "fake.png").write_text("<html>")
    with pytest.raises(InputError, match=r"fake.png is not a PNG"):
        write_report(tmp_path / "s.html", tmp_path)
    assert not (tmp_path / "s.html").exists()


def test_blind_scans_have_no_difference(tmp_path, sample):
    make_run(tmp_path, sample, scans=("Sim1",), truth=False)
    page = Reader(write_report(tmp_path / "r.html", tmp_path).path.read_text(encoding="utf-8"))
    (scan,) = page.data["scans"]
    assert scan["truth"] is None
    assert scan["labels"] is None
    assert scan["maps"][0]["nrmse"] is None
    assert "none at hand (blind scans)" in " ".join(page.words)
