import json

import pytest
from synthetic_rows import synthetic_rows

from qsmdl.challenge.metrics import METRICS
from qsmdl.challenge.protocol import average_rows, basis_of, stage_of
from qsmdl.challenge.published import ORIGIN, published_scores
from qsmdl.challenge.ranking import (
    change_of_stage,
    display_names,
    find_standing,
    make_standings,
    rank_values,
    select_rows,
    undeclared_data,
)
from qsmdl.challenge.rows import check_rows
from qsmdl.errors import InputError


def row(scan, value, method="tkd", seed=None, **told):
    metrics = dict.fromkeys(METRICS, value) | told.pop("metrics", {})
    return {
        "method": method, "scan": scan, "metrics": metrics, "seconds": 1.0, "peak_bytes": None, "seed": seed, "stopped": "closed form"
    } | told  # fmt: skip


def stage1(method, nrmse, **told):
    return [row("Sim1", nrmse, method, **told), row("Sim2", nrmse, method, **told)]


def test_ties_share_the_better_rank_and_undefined_values_have_none():
    assert rank_values([3.0, 1.0, None, 1.0, 2.0]) == [4, 1, None, 1, 3]
    assert rank_values([0.2, 0.9, 0.9], lower_is_better=False) == [3, 1, 1]
    assert rank_values([None, None]) == [None, None]
    assert rank_values([]) == []


def test_stages_are_told_by_the_scan_unless_the_row_says():
    assert [stage_of(row(scan, 1.0)) for scan in ("Sim1", "sim2_3", "Sim1Snr2", "head", "Sim10")] == [1, 1, 2, None, None]
    assert stage_of(row("Sim1", 1.0, stage=2)) == 2


def test_rows_of_different_basis_are_never_averaged_together():
    rows = [
        row("Sim1", 10.0), row("Sim2", 20.0), row("Sim1", 30.0, dialect="corrected"), row("Sim2", 50.0, dialect="corrected"),
        row("Sim1Snr1", 70.0), row("Sim2Snr1", 90.0), row("Sim1", 1.0, convention="crop"), row("Sim2", 3.0, convention="crop"),
    ]  # fmt: skip
    means = average_rows(rows)
    assert [(mean["metrics"]["rmse"], *basis_of(mean)) for mean in means] == [
        (15.0, "rc2", "release", 1), (40.0, "corrected", "release", 1), (80.0, "rc2", "release", 2), (2.0, "rc2", "crop", 1)
    ]  # fmt: skip


def test_a_mean_is_attested_only_where_all_of_it_is():
    (mean,) = average_rows([row("Sim1", 1.0, attested=True), row("Sim2", 1.0, attested=False)])
    assert mean["attested"] is False
    (mean,) = average_rows([row("Sim1", 1.0, attested=None), row("Sim2", 1.0)])
    assert mean["attested"] is None


def test_standing_of_stage_one():
    rows = stage1("b", 40.0) + stage1("a", 30.0) + [row("Sim1", 20.0, "c"), row("Sim2", 60.0, "c", metrics={"CalcStreak": None})]
    (standing,) = make_standings(rows)
    assert [entry.name for entry in standing.entries] == ["a", "b", "c"]
    assert [entry.ranks["rmse"] for entry in standing.entries] == [1, 2, 2]
    assert [entry.ranks["CalcStreak"] for entry in standing.entries] == [1, 2, None]
    assert [entry.n_top_five for entry in standing.entries] == [8, 8, 7]
    assert standing.scans == ("Sim1", "Sim2")
    assert [entry.name for entry in standing.lowest_nrmse()] == ["a"]
    assert standing.most_robust() == []  # all three are among the best five of everything


def test_noise_levels_stand_together_and_apart():
    rows = [row(f"Sim{sim}Snr{snr}", 10.0 * sim + snr, "a") for sim in (1, 2) for snr in (1, 2)]
    both, low, high = make_standings(rows)
    assert [(s.stage, s.snr_level, s.entries[0].nrmse) for s in (both, low, high)] == [(2, None, 16.5), (2, 1, 16.0), (2, 2, 17.0)]
    assert both.entries[0].metrics["CalcStreak"] == 21.5  # of Sim2 at both levels
    assert low.entries[0].metrics["CalcStreak"] == 21.0
    assert find_standing([both, low, high], 2, 1) is low
    (alone,) = make_standings([r for r in rows if r["scan"].endswith("Snr1")])
    assert (alone.snr_level, alone.title) == (1, "Stage 2, SNR1: mean of Sim1Snr1, Sim2Snr1")


def test_robustness_counts_the_official_metrics_only_and_ties_win_together():
    rows = [r for i in range(7) for r in stage1(f"m{i}", 10.0 + i, metrics={"SSIM": 0.1 * i})]
    (standing,) = make_standings(rows)
    by_name = {entry.name: entry for entry in standing.entries}
    assert by_name["m6"].ranks["SSIM"] == 1  # higher is better
    assert set(by_name["m6"].ranks) == set(METRICS) | {"SSIM"}
    assert [by_name[f"m{i}"].n_top_five for i in range(7)] == [8, 8, 8, 8, 8, 0, 0]
    assert [entry.name for entry in standing.most_robust()] == ["m0", "m1", "m2", "m3", "m4"]


def test_a_network_that_is_not_attested_is_ranked_but_wins_nothing():
    rows = [r for i in range(6) for r in stage1(f"m{i}", 10.0 + i, attested=i > 0)]
    (standing,) = make_standings(rows)
    assert standing.entries[0].ranks["rmse"] == 1
    assert [entry.name for entry in standing.lowest_nrmse()] == ["m1"]
    assert "m0" not in [entry.name for entry in standing.most_robust()]


def test_who_lacks_a_scan_is_left_out_with_the_reason():
    rows = [*stage1("a", 30.0), row("Sim1", 5.0, "b"), *[r | {"metrics": {}} for r in stage1("blind", 1.0)]]
    (standing,) = make_standings(rows)
    assert [entry.name for entry in standing.entries] == ["a"]
    assert standing.left_out[0] == ("b", "no row on Sim2: a mean over fewer scans would not compare")
    assert "a blind scan" in standing.left_out[1][1]
    with pytest.raises(InputError, match=r"nothing can be ranked; b: no row on Sim2"):
        make_standings([row("Sim1", 1.0, "b"), row("Sim2", 1.0, "c")])


def test_mixed_rows_are_refused_with_the_remedy():
    mixed = [row("Sim1", 1.0), row("Sim1", 1.0, dialect="qsm-ci"), row("Sim1", 1.0, convention="crop")]
    with pytest.raises(InputError, match=r"dialects rc2 \(2 rows\), qsm-ci \(1 rows\).*--dialect"):
        make_standings(mixed)
    with pytest.raises(InputError, match=r"conventions release \(1 rows\), crop \(1 rows\).*--convention"):
        select_rows(mixed, dialect="rc2")
    with pytest.raises(InputError, match=r"No row has the dialect 'corrected'; the rows have rc2"):
        select_rows(mixed, dialect="corrected")
    assert select_rows(mixed, dialect="rc2", convention="crop") == [mixed[2]]
    with pytest.raises(InputError, match="rows are empty"):
        select_rows([])


def test_scans_of_one_name_must_hold_the_same_data():
    with pytest.raises(InputError, match=r"Sim1 of b is not the Sim1 of a \(222 against 111\)"):
        make_standings([row("Sim1", 1.0, "a", data="111"), row("Sim1", 1.0, "b", data="222")])
    make_standings([row("Sim1", 1.0, "a", data="111"), row("Sim1", 1.0, "b")])


def test_rows_that_do_not_say_their_data_are_named():
    told, silent = row("Sim1", 1.0, "a", data="111"), row("Sim1", 1.0, "b")
    assert undeclared_data([told, told]) is None
    assert undeclared_data([silent]) is None  # nothing to compare it with
    assert "rows of b do not say" in undeclared_data([told, silent])


def test_duplicates_and_two_kinds_are_refused():
    with pytest.raises(InputError, match=r"two rows of tkd \(seed None\) on Sim1"):
        make_standings([row("Sim1", 1.0), row("Sim1", 2.0)])
    with pytest.raises(InputError, match="tkd is called direct and iterative"):
        make_standings([row("Sim1", 1.0, kind="direct"), row("Sim2", 1.0, kind="iterative")])


def test_stages_are_matched_by_method_and_seed():
    rows = [*stage1("a", 30.0, seed=0), *stage1("a", 31.0, seed=1), *stage1("b", 40.0, seed=0), *stage1("only1", 1.0)]
    rows += [row("Sim1Snr1", 20.0, "a", seed=1), row("Sim1Snr1", 35.0, "b", seed=7)]
    first, second = make_standings(rows)
    changes = [(a.name, a.nrmse, b.name, b.nrmse) for a, b in change_of_stage(first, second)]
    assert changes == [("a (seed 1)", 31.0, "a", 20.0), ("b", 40.0, "b", 35.0)]
    assert display_names([("a", 0), ("a", 1), ("b", 0)])["a", 1] == "a (seed 1)"


def test_visual_scores_belong_to_a_stage_and_are_not_counted():
    (standing,) = make_standings(stage1("a", 1.0), visual={1: {"a": 0.5}, 2: {"a": 3.0}})
    assert standing.entries[0].visual == 0.5
    assert standing.entries[0].n_top_five == len(METRICS)


def test_a_hundred_submissions():
    standings = make_standings(synthetic_rows(100))
    assert [(s.stage, s.snr_level, len(s.entries)) for s in standings] == [(1, None, 100), (2, None, 100), (2, 1, 100), (2, 2, 100)]
    for standing in standings:
        ranks = sorted(entry.ranks["rmse"] for entry in standing.entries)
        assert ranks == list(range(1, 101))
        assert sum(entry.n_top_five for entry in standing.entries) == 5 * len(METRICS)


def test_published_scores_are_those_of_the_paper():
    rows = published_scores()
    assert [row.stage for row in rows] == [1] * 10 + [2] * 10
    fine = next(row for row in rows if row.identifier == "WCMJZ1")
    assert (fine.acronym, fine.kind, fine.n_top_five, fine.mean_visual) == ("FINE", "deep learning", 7, None)
    assert fine.metrics == {"rmse": 30.4, "rmse_detrend_Blood": 50.5, "CalcStreak": 0.015, "DeviationFromCalcMoment": 4.5}
    assert {row.origin for row in rows} == {ORIGIN}
    assert rows[0].name == "wL1L2TV [5e0YBJKZv1]"
    assert [row.mean_visual for row in rows if row.stage == 1] == [0.5, 0.67, 0.17, 0.61, 0.28, 0.28, 0.22, 0.5, 0.28, 0.39]


GOOD = row("Sim1", 1.0, kind="direct", dialect="rc2", attested=None, stage=1, data="0f", metrics={"CalcStreak": None})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "itertive"}, "kind 'itertive'; did you mean 'iterative'"),
        ({"kind": 3}, "kind 3"),
        ({"metrics": {"rmse": float("nan")}}, "rmse = nan"),
        ({"metrics": {"rmse": "30"}}, "rmse = '30'"),
        ({"metrics": [1]}, "metrics = .* must be an object"),
        ({"metrics": {"rmse": 10**400}}, "rmse = 1000"),
        ({"metrics": {"\ud800": 1.0}}, r"metric called '\\ud800'"),
        ({"stopped": "\ud800"}, r"stopped = '\\ud800'"),
        ({"method": ""}, "method = ''"),
        ({"method": "a\nb"}, "printable"),
        ({"scan": 1}, "scan = '1'"),
        ({"seconds": -1}, "seconds = '-1'"),
        ({"seed": 1.5}, "seed = '1.5'"),
        ({"seed": True}, "seed = 'True'"),
        ({"stage": 3}, "stage = '3'.*1 or 2"),
        ({"attested": "yes"}, "attested = 'yes'"),
    ],
)
def test_rows_from_files_are_checked(change, message):
    with pytest.raises(InputError, match=rf"rows\.json: row 2.*{message}"):
        check_rows([GOOD, GOOD | change], "rows.json")


def test_good_rows_pass_and_missing_keys_are_named():
    assert check_rows(json.loads(json.dumps([GOOD, row("Sim2", 1.0)])), "rows.json")[0]["kind"] == "direct"
    assert check_rows([GOOD | {"kind": None}], "rows.json")
    with pytest.raises(InputError, match=r"row 1 lacks seconds, seed; rows of results have"):
        check_rows([{key: value for key, value in GOOD.items() if key not in ("seconds", "seed")}], "rows.json")
