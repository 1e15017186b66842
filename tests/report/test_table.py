import csv
import io
import json

import pytest
from rich.console import Console

from qsmdl.challenge.metrics import METRICS
from qsmdl.errors import InputError
from qsmdl.report.table import group_by_scan, make_table, print_tables, read_rows, write_csv, write_rows


def row(method, scan, value, seed=None, seconds=12.34, peak_bytes=3 * 2**30, **metrics):
    scores = dict.fromkeys(METRICS, value) | metrics
    return {"method": method, "scan": scan, "metrics": scores, "seconds": seconds, "peak_bytes": peak_bytes, "seed": seed, "stopped": "max steps"}


@pytest.fixture
def rows():
    return [
        row("tkd", "Sim1", 80.04, CalcStreak=None),
        row("tkd", "Sim2", 70.0, seconds=250.0, peak_bytes=None),
        row("fine [unet]", "Sim1", 30.4, CalcStreak=None),
        row("fine [unet]", "Sim2", 31.0, seconds=1900.0, peak_bytes=5 * 2**20),
    ]


def make_tables(rows):
    return [make_table(group, scan) for scan, group in group_by_scan(rows).items()]


def printed(rows, width=160, terminal=True):
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    print_tables(rows, console)
    return console.file.getvalue()


def test_one_table_per_scan_and_one_of_means(rows):
    text = printed(rows)
    titles = [table.title.plain for table in make_tables(rows)]
    basis = "(stage 1, dialect rc2, truth: release)"
    assert titles == [f"Sim1 {basis}", f"Sim2 {basis}", f"mean of Sim1, Sim2 {basis}"]
    for metric in METRICS.values():
        assert metric.short in text
    assert "fine [unet]" in text  # square brackets are no markup
    assert "80.0" in text
    assert "30.7" in text  # mean
    assert "70.000" in text  # streaking of Sim2 alone
    for cell in ("12.3 s", "250 s", "32 min", "3.0 GiB", "5 MiB", "max steps", "–"):  # noqa: RUF001
        assert cell in text, cell


def bold_cells(table, column):
    return [cell.plain for cell in table.columns[column].cells if cell.style == "bold"]


def test_the_best_values_are_bold_and_undefined_ones_never(rows):
    sim1, sim2, mean = make_tables(rows)
    assert bold_cells(sim1, 1) == ["30.4"]
    assert bold_cells(sim2, 1) == ["31.0"]
    assert bold_cells(mean, 1) == ["30.7"]
    streak = 1 + list(METRICS).index("CalcStreak")
    assert bold_cells(sim1, streak) == []
    assert bold_cells(sim2, streak) == ["31.000"]


def test_values_that_print_alike_are_marked_alike_and_single_rows_not():
    (table,) = make_tables([row("a", "Sim1", 30.41), row("b", "Sim1", 30.42), row("c", "Sim1", 99.0)])
    assert bold_cells(table, 1) == ["30.4", "30.4"]
    (single,) = make_tables([row("a", "Sim1", 30.41)])
    assert bold_cells(single, 1) == []


def test_seeds_are_named_where_there_are_several():
    text = printed([row("unet", "Sim1", 1.0, seed=0), row("unet", "Sim1", 2.0, seed=1), row("tkd", "Sim1", 3.0)])
    assert "unet (seed 0)" in text
    assert "unet (seed 1)" in text
    assert "tkd (seed" not in text


@pytest.mark.parametrize(("width", "terminal"), [(60, True), (80, True), (30, True), (80, False), (200, True)])
def test_names_and_numbers_survive_any_width(rows, width, terminal):
    text = printed(rows, width, terminal)
    for cell in ("fine", "[unet]", "NRMSE", "DeepGM", "80.0", "31.000", "3.0 GiB", "steps"):
        assert cell in text, cell
    assert "…" not in text
    upright = terminal and 30 < width < 100
    assert ("Ended" in text.splitlines()[3]) is not upright
    assert all(len(line) <= width for line in text.splitlines()) is (upright or width == 200)


def test_blind_rows_and_no_rows():
    blind = row("tkd", "Sim1", 1.0) | {"metrics": {}}
    assert "–" in printed([blind])  # noqa: RUF001
    with pytest.raises(InputError, match="no results"):
        print_tables([])


def test_csv_has_full_precision_and_empty_cells(tmp_path, rows):
    rows[0]["metrics"]["rmse"] = 80.0412345678
    rows[0]["metrics"]["rmse_detrend_v0"] = 1.5
    write_csv(rows, tmp_path / "rows.csv")
    found = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    assert len(found) == 4
    assert float(found[0]["rmse"]) == 80.0412345678
    assert found[0]["CalcStreak"] == ""
    assert found[0]["rmse_detrend_v0"] == "1.5"
    assert found[1]["rmse_detrend_v0"] == ""
    assert found[2]["method"] == "fine [unet]"
    assert (found[0]["dialect"], found[0]["convention"], found[0]["stage"], found[0]["kind"]) == ("rc2", "release", "1", "")
    with pytest.raises(InputError, match="--overwrite"):
        write_csv(rows, tmp_path / "rows.csv")


def test_rows_come_back_from_json(tmp_path, rows):
    write_rows(rows, tmp_path / "rows.json")
    assert read_rows(tmp_path / "rows.json") == rows
    assert json.loads((tmp_path / "rows.json").read_text())[0]["metrics"]["CalcStreak"] is None
    with pytest.raises(InputError, match="--overwrite"):
        write_rows(rows, tmp_path / "rows.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [("{}", "is dict, not a list"), ("[1]", "row 1 is int"), ('[{"method": "tkd"}]', "row 1 lacks metrics, peak_bytes")],
)
def test_json_that_holds_no_rows_is_named(tmp_path, content, message):
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(InputError, match=rf"rows\.json.*{message}"):
        read_rows(tmp_path / "rows.json")


def test_dialects_stand_in_tables_of_their_own():
    mixed = [row("a", "Sim1", 1.0), row("a", "Sim1", 2.0) | {"dialect": "corrected", "convention": "crop"}]
    assert list(group_by_scan(mixed)) == ["Sim1 (stage 1, dialect rc2, truth: release)", "Sim1 (stage 1, dialect corrected, truth: crop)"]


def test_networks_that_are_not_attested_are_marked_and_explained():
    text = printed([row("a", "Sim1", 1.0) | {"attested": False}, row("b", "Sim1", 2.0) | {"attested": True}])
    assert "a †" in text
    assert "b †" not in text
    assert "not attested" in text
    assert "not attested" not in printed([row("b", "Sim1", 2.0) | {"attested": True}])
