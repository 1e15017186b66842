import csv
import io
import itertools
import json

import numpy as np
import pytest
from matplotlib import image as mpl_image
from matplotlib.text import Text
from rich.console import Console
from synthetic_rows import synthetic_rows

from qsmdl.challenge.kept_truth import keep_truth
from qsmdl.challenge.metrics import METRICS
from qsmdl.challenge.published import published_scores
from qsmdl.challenge.ranking import make_standings
from qsmdl.challenge.ratings import Correlations
from qsmdl.challenge.run import Case
from qsmdl.errors import InputError
from qsmdl.io.nifti import write_volume
from qsmdl.report.best_maps import draw_best_maps
from qsmdl.report.gallery import Gallery, draw_figures, nrmse_pairs, published_changes
from qsmdl.report.leaderboard import Leaderboard, to_csv, to_plain
from qsmdl.report.leaderboard_text import escaped, markdown
from qsmdl.report.matrix import correlation_figure, correlations, included
from qsmdl.report.pairs import best_of_each_kind, pair_figure
from qsmdl.report.scatter import Pairs, agreement_figure, stage_change_figure
from qsmdl.report.spider import divisor, spider_figure
from qsmdl.report.style import LOOKS, plain_text, save_figure
from qsmdl.report.table import print_leaderboard, print_published

PNG_HEAD = b"\x89PNG"


@pytest.fixture(scope="module")
def standings():
    return make_standings(synthetic_rows(100), visual={1: {row["method"]: 1.0 for row in synthetic_rows(100)}})


def pairs_of(n, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(45, 12, n)
    names = [f"submission{i}" for i in range(n)]
    return Pairs(x.tolist(), (0.9 * x + generator.normal(0, 2, n)).tolist(), names, [list(LOOKS)[i % 4] for i in range(n)])


@pytest.mark.parametrize("n", [12, 100])
def test_names_cover_neither_each_other_nor_the_frame(n):
    figure = agreement_figure(pairs_of(n), metric="NRMSE", unit="%", x_name="Sim1", y_name="Sim2", title="t")
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    for axes in figure.axes:
        extents = [Text.get_window_extent(name, renderer) for name in axes.texts]  # without the line that leads to the point
        assert len(extents) == (n if n <= 12 else 5)
        for a, b in itertools.combinations(extents, 2):
            overlap = max(0, min(a.x1, b.x1) - max(a.x0, b.x0)) * max(0, min(a.y1, b.y1) - max(a.y0, b.y0))
            assert overlap < 0.1 * min(a.width * a.height, b.width * b.height)
        frame = axes.get_window_extent(renderer)
        assert all(frame.x0 - 3 <= e.x0 and e.x1 <= frame.x1 + 3 and frame.y0 - 3 <= e.y0 and e.y1 <= frame.y1 + 3 for e in extents)


def test_bland_altman_lines_are_mean_and_limits():
    x, y = [10.0, 20.0, 30.0, 40.0], [11.0, 19.0, 33.0, 41.0]
    figure = agreement_figure(Pairs(x, y, list("abcd"), [None] * 4), metric="NRMSE", unit="%", x_name="SNR1", y_name="SNR2", title="t")
    right = figure.axes[1]
    levels = sorted({float(line.get_ydata()[0]) for line in right.lines})
    difference = np.subtract(y, x)
    spread = 1.96 * difference.std(ddof=1)
    assert levels == pytest.approx(sorted([0, difference.mean(), difference.mean() - spread, difference.mean() + spread]))
    (points,) = right.collections
    np.testing.assert_allclose(points.get_offsets(), np.column_stack([np.add(x, y) / 2, difference]))


def visible(figure):
    return [axes for axes in figure.axes if axes.get_visible()]


def test_every_axis_has_a_unit(standings):
    entries = standings[0].entries
    figures = [
        agreement_figure(pairs_of(5), metric="NRMSE", unit="%", x_name="Sim1", y_name="Sim2", title="t"),
        stage_change_figure(pairs_of(5), published_changes(published_scores()), title="t"),
    ]
    for axes in (axes for figure in figures for axes in visible(figure)):
        assert "(%" in axes.get_xlabel()
        assert "(%" in axes.get_ylabel() or "(percentage points)" in axes.get_ylabel()
    grid = visible(pair_figure(entries, title="t"))
    assert len(grid) == 21
    assert all("(" in axes.get_xlabel() for axes in grid[-6:])
    assert all("(" in axes.get_ylabel() or "(" in axes.get_title() for axes in (grid[0], grid[1], grid[3], grid[6]))
    spider = spider_figure(entries, title="t").axes[0]
    names = [label.get_text() for label in spider.get_xticklabels()]
    assert names[0] == "NRMSE\n÷ 100 %"
    assert names[-3:] == ["Streak\n÷ 0.1", "Moment\n÷ 30 ppm voxel", "Visual score\n÷ 3"]
    assert "no unit" in correlation_figure(entries, title="t").axes[1].get_ylabel()


def test_kinds_differ_in_colour_and_in_marker():
    assert len({look.colour for look in LOOKS.values()}) == len({look.marker for look in LOOKS.values()}) == 4


def test_spider_shows_values_over_their_divisors(standings):
    assert [divisor(key) for key in ("rmse", "CalcStreak", "DeviationFromCalcMoment", "DeviationFromLinearSlope", "visual")] == [100, 0.1, 30, 1, 3]
    entries = standings[0].entries
    line = spider_figure(entries, title="t").axes[0].lines[0]
    assert line.get_ydata()[0] == pytest.approx(entries[0].nrmse / 100)
    assert line.get_ydata()[0] == line.get_ydata()[-1]  # closed


def test_correlations_are_pearsons_over_those_who_have_both():
    columns = {"a": np.array([1.0, 2.0, 3.0, 4.0]), "b": np.array([2.0, 4.0, np.nan, 9.0]), "c": np.array([1.0, 1.0, 1.0, 1.0])}
    matrix = correlations(columns)
    assert matrix[0, 1] == pytest.approx(np.corrcoef([1, 2, 4], [2, 4, 9])[0, 1])
    assert np.isnan(matrix[0, 2])
    np.testing.assert_allclose(matrix, matrix.T)


def test_failed_submissions_do_not_enter_the_correlations(standings):
    entries = standings[0].entries
    assert max(entry.nrmse for entry in entries) > 80
    assert max(entry.nrmse for entry in included(entries)) < 80
    with pytest.raises(InputError, match="at least 3 algorithms with an NRMSE below 80 %; there are 2"):
        correlation_figure(entries[:2], title="t")


def test_pair_plot_takes_the_best_of_each_kind(standings):
    entries = standings[0].entries
    chosen = best_of_each_kind(entries, 4)
    for kind in ("direct", "iterative", "deep learning"):
        best = sorted(entry.nrmse for entry in entries if entry.kind == kind)[:4]
        assert [entry.nrmse for entry in chosen if entry.kind == kind] == best


def test_figures_without_data_are_left_out_with_the_reason(tmp_path):
    (standing,) = make_standings([row for row in synthetic_rows(1) if row["scan"] in ("Sim1", "Sim2")])
    gallery = draw_figures([standing], tmp_path)
    assert [drawn.name for drawn in gallery.drawn] == ["spider_stage1"]
    reasons = dict(gallery.left_out)
    assert "those of stage 2 are missing" in reasons["stage1_to_stage2"]
    assert "At least 2 algorithms" in reasons["nrmse_sim1_sim2_stage1"]
    assert set(reasons) == {"nrmse_sim1_sim2_stage1", "correlations_stage1", "pairs_stage1", "stage1_to_stage2", "nrmse_snr1_snr2"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spider_stage1.png", "spider_stage1.svg"]
    with pytest.raises(InputError, match="exists"):
        draw_figures([standing], tmp_path)


def test_noise_levels_that_nobody_has_both_of_get_figures_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("qsmdl.report.pairs.PAIRED_METRICS", ("rmse", "CalcStreak"))  # the whole grid takes seconds
    rows = [row for row in synthetic_rows(8) if "Snr" in row["scan"]]
    first = {row["method"] for row in rows[: len(rows) // 2]}
    rows = [row for row in rows if row["scan"].endswith("Snr1" if row["method"] in first else "Snr2")]
    standings = make_standings(rows)
    assert [(standing.snr_level, len(standing.entries)) for standing in standings] == [(None, 0), (1, 4), (2, 4)]
    drawn = {one.name for one in draw_figures(standings, tmp_path).drawn}
    assert {"nrmse_sim1_sim2_stage2_snr1", "nrmse_sim1_sim2_stage2_snr2", "spider_stage2_snr1", "spider_stage2_snr2"} <= drawn


def test_spreadsheets_find_no_formula_in_what_rows_say():
    told = {"method": "=a", "scan": "-b", "dialect": "@c", "convention": "+d"}
    row = {"metrics": dict.fromkeys(METRICS, 1.0), "seconds": 1.0, "peak_bytes": None, "seed": None, "stopped": "s"}
    (line,) = csv.DictReader(io.StringIO(to_csv(Leaderboard(make_standings([row | told])))))
    assert [line[key] for key in ("algorithm", "scans", "dialect", "convention")] == ["'=a", "'-b", "'@c", "'+d"]


def test_pictures_are_the_same_bytes_each_time_and_survive_odd_names(tmp_path):
    pairs = Pairs([1.0, 2.0], [2.0, 3.0], ["$\\frac{1}$", "名前 with a very long name indeed"], [None, "direct"])
    for folder in ("a", "b"):
        figure = stage_change_figure(pairs, title="t")
        png, svg = save_figure(figure, tmp_path / folder, "figure")
    assert png.read_bytes().startswith(PNG_HEAD)
    assert b"<svg" in svg.read_bytes()[:800]
    for name in ("figure.png", "figure.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert plain_text("x" * 30) == "x" * 19 + "…"


def test_pairs_need_equal_lengths_and_scores(standings):
    with pytest.raises(InputError, match="equally many"):
        Pairs([1.0], [1.0, 2.0], ["a"], [None])
    with pytest.raises(InputError, match="there are 1"):
        nrmse_pairs(standings[0].entries[:1], ["Sim1"], ["Sim2"])


def board(standings, **more):
    raters = Correlations(("ann", "bob"), ((1.0, 0.5), (0.5, None)), ((9, 6), (6, 9)))
    return Leaderboard(standings, published_scores(), raters, ["a note"], **more)


def test_json_csv_and_markdown_say_the_same(standings, tmp_path):
    gallery = Gallery(tmp_path, left_out=[("best_maps", "no maps")])
    content = json.loads(json.dumps(to_plain(board(standings), gallery), allow_nan=False))
    first = content["standings"][0]
    best = standings[0].entries[0]
    assert (first["stage"], first["dialect"], first["entries"][0]["name"]) == (1, "rc2", best.name)
    assert first["entries"][0]["ranks"]["rmse"] == 1
    assert first["categories"]["lowest_nrmse"]
    assert content["published"][0]["origin"] == "published, on the challenge's own data"
    lines = list(csv.DictReader(to_csv(board(standings)).splitlines()))
    assert len(lines) == 4 * 100 + 20
    assert float(lines[0]["rmse"]) == best.nrmse
    published = [line for line in lines if line["origin"].startswith("published")]
    assert len(published) == 20
    assert all(line["rank_rmse"] == "" for line in published)
    text = markdown(standings[:1], published_scores(), board([]).raters, ["a note"], gallery, figures_folder="figures")
    for words in (best.name, f"**{best.nrmse:.1f}**", "dialect rc2, truth: release", "wL1L2TV", "bob", "no maps", "a note", "not attested", "Visual"):
        assert words in text, words


def test_names_start_no_markup_and_no_formula(standings):
    assert escaped("a|b <script>\n*x*") == r"a\|b \<script\> \*x\*"
    (standing,) = make_standings([{**row, "method": "=1+1"} for row in synthetic_rows(1) if row["scan"] in ("Sim1", "Sim2")])
    assert ",'=1+1," in to_csv(Leaderboard([standing]))


def printed(function, *arguments, width, terminal):
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    function(*arguments, console)
    return console.file.getvalue()


@pytest.mark.parametrize(("width", "terminal", "everything"), [(200, True, True), (70, True, False), (80, False, True)])
def test_printed_leaderboard(standings, width, terminal, everything):
    text = printed(print_leaderboard, standings[0], width=width, terminal=terminal)
    assert standings[0].entries[-1].name in text
    assert "dialect rc2" in text
    assert ("Moment" in text) is everything
    assert "not attested" in text
    assert not terminal or max(map(len, text.splitlines())) <= width


def test_printed_published_scores_say_what_they_are():
    text = printed(print_published, published_scores(), width=80, terminal=False)
    assert "not ranked with other rows" in text
    assert "WH-nlQSM [EODh2MXvXX]" in text


@pytest.fixture
def evaluation(tmp_path, sample, sample_field):
    """Maps of three methods on Sim2, with the truth that the evaluation kept."""
    scan, truth = sample
    keep_truth(tmp_path, Case("Sim2", sample_field, scan, truth))
    for name, factor in (("a", 0.9), ("b", 0.7), ("c", 0.5)):
        write_volume(tmp_path / "maps" / f"Sim2_{name}.nii.gz", factor * truth.chi_ppm, voxel_size_mm=(5.0, 5.0, 5.0))
    return tmp_path


def small_standing(*methods):
    metrics = dict.fromkeys(METRICS, 1.0)
    keys = {"scan": "Sim2", "seconds": 1.0, "peak_bytes": None, "seed": None, "stopped": "s"}
    return make_standings([{"method": name, "metrics": metrics | {"rmse": 10.0 + i}, **keys} for i, name in enumerate(methods)])[0]


def test_montage_of_the_best_with_truth_and_errors(evaluation, tmp_path):
    gallery = Gallery(tmp_path / "figures")
    draw_best_maps(gallery, small_standing("a", "b", "c"), [evaluation], None)
    assert gallery.left_out == []
    (drawn,) = gallery.drawn
    assert [path.name for path in drawn.paths] == ["best_maps_Sim2_stage1.png", "best_maps_Sim2_stage1.svg"]
    height, width, _ = mpl_image.imread(drawn.paths[0]).shape
    assert height > width  # a block of maps and one of errors


def test_montage_says_what_is_missing(evaluation, tmp_path):
    gallery = Gallery(tmp_path / "figures")
    draw_best_maps(gallery, small_standing("a", "z"), [evaluation], None)
    assert "no map of z on Sim2" in gallery.left_out[0][1]
    draw_best_maps(gallery, small_standing("../a"), [evaluation], None)
    assert "no map of ../a" in gallery.left_out[1][1]
    (tmp_path / "release").mkdir()
    draw_best_maps(gallery, small_standing("a"), [evaluation / "maps"], tmp_path / "release")
    assert "holds no scan" in gallery.left_out[2][1]
    for folders, release, message in (([tmp_path / "none"], None, "--maps"), ([evaluation], tmp_path / "none", "--truth")):
        with pytest.raises(InputError, match=message):
            draw_best_maps(gallery, small_standing("a"), folders, release)
    with pytest.raises(InputError, match="both maps called Sim2_a"):
        draw_best_maps(gallery, small_standing("a"), [evaluation, evaluation / "maps"], None)
    assert gallery.drawn == []
