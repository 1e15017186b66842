import pytest
from pages import METHODS, make_run

from qsmdl.challenge.kept_truth import keep_truth
from qsmdl.challenge.ratings import read_key
from qsmdl.challenge.run import Case
from qsmdl.challenge.truth import read_truth
from qsmdl.cli.main import main


@pytest.fixture(scope="module")
def run(tmp_path_factory, sample):
    folder = tmp_path_factory.mktemp("run")
    make_run(folder, sample, scans=("Sim2",))
    return folder


def test_from_rating_to_report(run, tmp_path, capsys):
    rate, page, ratings = tmp_path / "rate.html", tmp_path / "r.html", tmp_path / "ratings.csv"
    main(["report", str(run), "-o", str(rate), "--rating"])
    assert "Key, not for the raters" in capsys.readouterr().err
    codes = [code for code in read_key(tmp_path / "rate.key.json") if code in rate.read_text()]
    lines = [f"A,{code},{scale},Sim2,{i % 4}" for i, code in enumerate(codes) for scale in ("noise", "streaking", "unnaturalness")]
    ratings.write_text("rater,submission,category,scan,value\n" + "\n".join(dict.fromkeys(lines[: 3 * (len(METHODS) + 1)])) + "\n")
    main(["report", str(run), "-o", str(page), "--ratings", str(ratings)])
    text = page.read_text(encoding="utf-8")
    assert "Agreement of the raters" in text
    assert "blind-" not in text


def test_a_report_to_rate_in_and_its_key(run, tmp_path, capsys):
    main(["report", str(run), "-o", str(tmp_path / "r.html"), "--with-rating", "--scans", "Sim2"])
    assert "Key to the codes of its ratings, not for the raters" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"r.html", "r.key.json"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rating", "--without-maps"], "--rating makes a page"),
        (["--rating", "--with-rating"], "--rating makes a page"),
        (["--with-rating", "--without-maps"], "Leave one of the two out"),
        (["--scans", "Sim7"], "no row on 'Sim7'"),
        (["--key", "k.key.json"], "no ratings are given"),
        (["--ratings", "none.csv"], "could not be read"),
        (["--truth", "nowhere"], "holds no truth of Sim2"),
    ],
)
def test_errors_end_with_status_2_and_no_page(run, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        main(["report", str(run), "-o", str(tmp_path / "r.html"), *options])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_kept_truths_are_read_as_a_release(run, sample):
    truth = read_truth(run / "truth" / "Sim2")
    assert truth.geometry.voxel_size_mm == pytest.approx(sample[1].geometry.voxel_size_mm)
    assert (truth.chi_ppm - sample[1].chi_ppm)[truth.mask].abs().max() < 1e-6
    assert (truth.mask == sample[1].mask).all()


def test_a_blind_scan_keeps_nothing(sample_field, tmp_path):
    keep_truth(tmp_path, Case("Sim1", sample_field))
    assert list(tmp_path.iterdir()) == []
