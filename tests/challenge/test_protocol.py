import pytest

from qsmdl.challenge.metrics import METRICS
from qsmdl.challenge.protocol import average_rows
from qsmdl.errors import InputError


def row(scan, value, method="tkd", seed=None, seconds=1.0, peak_bytes=100, stopped="closed form", **metrics):
    scores = dict.fromkeys(METRICS, value) | metrics
    return {"method": method, "scan": scan, "metrics": scores, "seconds": seconds, "peak_bytes": peak_bytes, "seed": seed, "stopped": stopped}


def test_means_over_both_simulations_but_calcification_from_sim2():
    (mean,) = average_rows([row("Sim1", 40.0, seconds=1, peak_bytes=5), row("Sim2", 20.0, seconds=3, peak_bytes=9, stopped="max steps")])
    for key, metric in METRICS.items():
        assert mean["metrics"][key] == (20.0 if metric.sim2_only else 30.0), key
    assert mean["scan"] == "mean of Sim1, Sim2"
    assert mean["seconds"] == 2
    assert mean["peak_bytes"] == 9
    assert mean["stopped"] == "closed form; max steps"


def test_stage_two_averages_both_noise_levels():
    rows = [row("Sim1Snr1", 10.0), row("Sim1Snr2", 20.0), row("Sim2Snr1", 30.0), row("Sim2Snr2", 40.0)]
    (mean,) = average_rows(rows)
    assert mean["metrics"]["rmse"] == 25
    assert mean["metrics"]["CalcStreak"] == 35


def test_undefined_calcification_of_sim1_does_not_spoil_the_mean():
    (mean,) = average_rows([row("Sim1", 40.0, CalcStreak=None, DeviationFromCalcMoment=None), row("Sim2", 20.0)])
    assert mean["metrics"]["CalcStreak"] == 20


def test_a_calcification_lost_at_one_noise_level_is_not_judged_by_the_other():
    lost = [row(scan, 2.0, CalcStreak=None) for scan in ("Sim1Snr1", "Sim2Snr1", "Sim1Snr2")]
    rows = [*lost, row("Sim2Snr2", 0.01)]
    (mean,) = average_rows(rows)
    assert mean["metrics"]["CalcStreak"] is None
    assert mean["metrics"]["DeviationFromCalcMoment"] == pytest.approx(1.005)


def test_other_undefined_values_stay_undefined():
    (mean,) = average_rows([row("Sim1", 40.0, rmse_detrend_Blood=None), row("Sim2", 20.0, CalcStreak=None)])
    assert mean["metrics"]["rmse_detrend_Blood"] is None
    assert mean["metrics"]["CalcStreak"] is None
    assert mean["metrics"]["rmse"] == 30


def test_other_scans_count_where_defined():
    (mean,) = average_rows([row("head_1", 1.0, CalcStreak=None), row("head_2", 2.0), row("Sim10", 6.0)])
    assert mean["metrics"]["CalcStreak"] == 4
    assert mean["metrics"]["rmse"] == 3


def test_methods_and_seeds_are_kept_apart_and_single_scans_left_out():
    rows = [
        row("Sim1", 1.0, "unet", seed=0), row("Sim2", 3.0, "unet", seed=0), row("Sim1", 5.0, "unet", seed=1),
        row("Sim2", 7.0, "unet", seed=1), row("Sim1", 9.0, "tv"),
    ]  # fmt: skip
    found = average_rows(rows)
    assert [(r["method"], r["seed"], r["metrics"]["rmse"]) for r in found] == [("unet", 0, 2.0), ("unet", 1, 6.0)]
    assert average_rows([]) == []


def test_blind_rows_have_no_metrics():
    blind = [row("Sim1", 1.0, peak_bytes=None) | {"metrics": {}}, row("Sim2", 1.0, peak_bytes=None) | {"metrics": {}}]
    (mean,) = average_rows(blind)
    assert mean["metrics"] == {}
    assert mean["peak_bytes"] is None


def test_the_same_scan_twice_is_refused():
    with pytest.raises(InputError, match=r"two rows of tkd \(seed None\) on Sim1"):
        average_rows([row("Sim1", 1.0), row("Sim1", 2.0)])
