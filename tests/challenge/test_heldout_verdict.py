"""What a held-out study decides, on made-up rows."""

import statistics

import pytest
from heldout_studies import beaten, spread, study, study_row, study_rows

from qsmdl.challenge.heldout_results import CRITERION_METRICS
from qsmdl.challenge.heldout_verdict import judge_all, judge_data, judge_metric, judge_slope, judge_snr, judge_trait
from qsmdl.errors import InputError
from qsmdl.report.heldout import heldout_page


def page_of(results):
    return heldout_page(results, command="qsmdl heldout out", data="Made up.")


def test_a_network_that_is_better_everywhere():
    results = study(beaten())
    sentences = judge_all(results)
    assert [sentence.verdict for sentence in sentences] == ["holds"] * 9
    assert results.classical == ("tv+unring", "l1", "l1+unring", "tv")
    assert all("best is tv+unring" in sentence.numbers for sentence in sentences[1:5])
    found = results.compare("tv+unring", "rmse")
    assert found.difference == pytest.approx(-2 - 0.01 * 9.5)
    assert (found.n, found.wins) == (20, 20)
    assert found.p_wilcoxon == pytest.approx(2**-20, rel=1e-3)
    page = page_of(results)
    assert "**The criterion holds.** 9 of 9 sentences hold." in page
    assert "| SNR 300 | 20 |" in page


def test_the_phantom_is_the_unit():
    """Eighty scans, but twenty values, each the mean over the SNRs."""
    results = study(beaten())
    values = results.by_phantom("tv", "rmse")
    assert len(values) == 20
    assert values[3] == pytest.approx(statistics.fmean(spread(3, snr) + 4 for snr in results.peak_snrs))
    assert results.by_phantom("tv", "rmse", peak_snrs=(300.0,))[3] == spread(3, 300.0) + 4


def test_the_best_is_chosen_for_each_metric():
    errors = {"tv": (30, 40, 50, 60), "l1": (31, 39, 51, 59), "l1+unring": (32, 41, 49, 61), "net": (29, 38, 48, 58)}
    rows = [
        row for name, four in errors.items() for row in study_rows(name, lambda i, snr, four=four: dict(zip(CRITERION_METRICS, four, strict=True)))
    ]
    results = study(rows)
    assert [results.best_classical(key) for key in CRITERION_METRICS] == ["tv", "l1", "l1+unring", "l1"]


def test_neither_itself_nor_networks_are_competitors():
    rows = beaten() + study_rows("net+unring", lambda i, snr: 1.0) + study_rows("other_net", lambda i, snr: 2.0)
    for row in rows:
        row["kind"] = "deep learning" if row["method"] == "net+unring" else row["kind"]
    assert "net+unring" not in study(rows).classical
    assert "other_net" not in study(rows).classical
    assert study(rows, candidate="l1").classical == ("tv+unring", "tv")
    assert study(rows, candidate="l1+unring").classical == ("tv+unring", "tv")


def test_better_on_half_of_the_phantoms_is_not_better():
    rows = study_rows("net", lambda i, snr: 25 + (3 if i % 2 else -3.2)) + study_rows("tv", lambda i, snr: 25.0)
    sentence = judge_metric(study(rows), "rmse")
    assert sentence.verdict == "does not hold"
    assert "10 of 20" in sentence.numbers
    assert "difference -0.10" in sentence.numbers


def test_worse_never_holds():
    rows = study_rows("net", lambda i, snr: spread(i, snr) + 1) + study_rows("tv", spread)
    assert not any(judge_metric(study(rows), key).holds for key in CRITERION_METRICS)
    assert "**The criterion does not hold.** 3 of 9 sentences hold." in page_of(study(rows))


def test_too_few_phantoms_are_said():
    results = study(beaten(n=12), n=12)
    data = judge_data(results)
    assert not data.holds
    assert "12 phantoms at 1 mm" in data.numbers
    assert not judge_data(study(beaten(), voxel_size_mm=2.0)).holds
    few = (100.0, 1000.0)
    assert not judge_data(study(beaten(peak_snrs=few), peak_snrs=few)).holds
    assert judge_metric(results, "rmse").holds


def test_a_network_that_ignores_the_noise():
    rows = study_rows("net", lambda i, snr: 25.0 + i % 4) + study_rows("tv", spread)
    sentence = judge_snr(study(rows))
    assert not sentence.holds
    assert "difference +0.00" in sentence.numbers
    few = (30.0, 100.0)
    told = judge_snr(study(beaten(peak_snrs=few), peak_snrs=few))
    assert (told.holds, told.numbers) == (False, "cannot be told: the study does not hold both")


def test_slopes():
    def slope_of(slope):
        return judge_slope(study(study_rows("net", spread, slope=slope) + study_rows("tv", spread)))

    assert slope_of(lambda i, snr: 0.98 + 0.002 * (i % 2)).holds
    one_bad = slope_of(lambda i, snr: 0.9 if snr == 30 else 1.0)
    assert not one_bad.holds
    assert "0.975 over all, 0.900 at SNR 30, 1.000 at SNR 100" in one_bad.numbers
    assert not slope_of(lambda i, snr: 1.04).holds
    some = slope_of(lambda i, snr: None if i == 3 else 1.0)
    assert not some.holds
    assert "only 19 of 20 phantoms have all six regions" in some.numbers
    assert "cannot be told" in slope_of(lambda i, snr: None).numbers


def test_a_geometry_where_it_fails():
    results = study(beaten())
    tilted = [number for number in results.phantoms_with("oblique") if number != 14]  # that one is anisotropic, too
    rows = [row for row in beaten() if row["method"] != "net" or row["phantom"] not in tilted]
    rows += [study_row("net", i, snr, 60.0) for i in tilted for snr in results.peak_snrs]
    worse = study(rows)
    assert not judge_trait(worse, "oblique").holds
    assert judge_trait(worse, "anisotropic").holds
    alone = study(beaten(n=2), n=2)
    assert judge_trait(alone, "oblique").numbers == "cannot be told: no phantom is oblique"


def test_a_metric_that_a_phantom_lacks():
    rows = beaten()
    for row in rows:
        if row["phantom"] == 5 and row["peak_snr"] == 30:
            row["metrics"] = row["metrics"] | {"rmse_detrend_DGM": None}
    sentence = judge_metric(study(rows), "rmse_detrend_DGM")
    assert not sentence.holds
    assert "only 19 of 20 phantoms have it" in sentence.numbers
    assert judge_metric(study(rows), "rmse").holds


def test_methods_with_missing_rows_are_left_out_and_named():
    rows = [row for row in beaten() if not (row["method"] == "tv+unring" and row["phantom"] == 7 and row["peak_snr"] == 30)]
    results = study(rows, failures={"medi": "MemoryError: none left (on Sim1_00_snr30)"})
    assert "tv+unring" not in results.methods
    assert results.best_classical("rmse") == "l1"
    page = page_of(results)
    assert "- tv+unring: 1 of 80 scans lack a row" in page
    assert "- medi: MemoryError: none left (on Sim1_00_snr30)" in page


def test_calcifications_of_those_that_have_one():
    """Sim1 has none: its rows are undefined there. The best is the best of each metric."""
    values = {"net": (0.0101, 2.5), "tv": (0.0104, 2.25), "tv+unring": (0.0110, 2.0)}
    rows = [row for name in values for row in study_rows(name, lambda i, snr: 20.0)]
    for row in rows:
        streak, moment = values[row["method"]] if row["phantom"] % 2 else (None, None)
        row["metrics"] = row["metrics"] | {"CalcStreak": streak, "DeviationFromCalcMoment": moment}
    page = page_of(study(rows))
    assert "Means over the 10 phantoms that have one." in page
    assert "| net | 0.010 | 2.5 |" in page
    assert "| Streak, against tv | 10 | 0.0101 | 0.0104 | -0.0003 | " in page
    assert "| Moment, against tv+unring | 10 | 2.50 | 2.00 | +0.50 | " in page
    assert "## Calcification" not in page_of(study(beaten()))


def test_the_code_that_made_the_rows():
    assert "All rows were made by one state of qsmdl's code (abc)." in page_of(study([row | {"code": "abc"} for row in beaten()]))
    mixed = [row | {"code": "abc" if row["phantom"] else "xyz"} if row["method"] != "l1" else row for row in beaten()]
    assert "rows by state: abc 304, not recorded 80, xyz 16." in page_of(study(mixed))


def test_without_a_candidate_or_a_competitor():
    nobody = study([row for row in beaten() if row["method"] != "net"])
    assert not any(sentence.holds for sentence in judge_all(nobody))
    assert "net lacks rows" in page_of(nobody)
    alone = study([row for row in beaten() if row["method"] == "net"])
    assert "cannot be told: no classical method has a row of every scan" in page_of(alone)
    assert "0 of 9" in page_of(study([]))


def test_one_scan_twice():
    with pytest.raises(InputError, match="two rows of net on Sim1_00_snr30"):
        study([*beaten(), beaten()[0]])
