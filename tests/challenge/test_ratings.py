import json

import pytest

from qsmdl.challenge.ratings import (
    DISCREPANCIES,
    SCALES,
    TRUTH_NAME,
    Rating,
    mean_by_category,
    mean_visual,
    rater_correlations,
    read_key,
    read_ratings,
)
from qsmdl.errors import InputError

HEADER = "rater,submission,category,scan,value\n"


def ratings_of(rater, submission, streaking, unnaturalness=0, noise=0):
    values = {"streaking": as_pair(streaking), "unnaturalness": as_pair(unnaturalness), "noise": as_pair(noise)}
    return [Rating(rater, submission, category, f"Sim{i + 1}", pair[i]) for category, pair in values.items() for i in (0, 1)]


def as_pair(value):
    return value if isinstance(value, tuple) else (value, value)


def write(path, text):
    path.write_text(text)
    return path


def test_the_worse_scan_counts_and_raters_are_averaged():
    ratings = [*ratings_of("A", "tkd", (1, 3), 2, 1), *ratings_of("B", "tkd", (2, 0), 0, (1, 2)), *ratings_of("A", "tv", 0)]
    assert mean_by_category(ratings)["tkd"] == {"streaking": 2.5, "unnaturalness": 1.0, "noise": 1.5}
    assert mean_visual(ratings) == {"tkd": pytest.approx(5 / 3), "tv": 0.0}


def test_a_submission_that_was_not_rated_on_all_scales_has_no_mean():
    ratings = [r for r in ratings_of("A", "tkd", 1) if r.category != "noise"]
    assert mean_visual(ratings) == {}
    assert set(mean_by_category(ratings)["tkd"]) == {"streaking", "unnaturalness"}


def test_stages_are_not_mixed():
    given = (("x", "Sim1", 0), ("x", "Sim1Snr1", 3), ("y", "Sim1", 1), ("y", "Sim1Snr1", 3))
    ratings = [Rating(rater, name, "noise", scan, value) for rater in "AB" for name, scan, value in given]
    assert mean_by_category(ratings) == {"x": {"noise": 1.5}, "y": {"noise": 2.0}}
    assert rater_correlations(ratings).n_shared == ((4, 4), (4, 4))
    assert rater_correlations(ratings).matrix[0][1] == pytest.approx(1)


def test_discrepancies_are_shares_of_raters_and_do_not_enter_the_mean():
    ratings = ratings_of("A", "tkd", 3, 3, 3) + [Rating(r, "tkd", "discrepancy_veins", "Sim1", v) for r, v in (("A", 1), ("B", 0))]
    assert mean_by_category(ratings)["tkd"]["discrepancy_veins"] == 0.5
    assert mean_visual(ratings) == {"tkd": 3.0}


def test_correlations_leave_the_truth_out():
    values = {"a": 0, "b": 1, "c": 2, "d": 3}
    ratings = []
    for name, value in values.items():
        for rater, given in (("A", value), ("B", 3 - value), ("C", 1)):
            ratings += ratings_of(rater, name, given, given, given)
    ratings += ratings_of("A", TRUTH_NAME, 0) + ratings_of("B", TRUTH_NAME, 0)
    result = rater_correlations(ratings)
    assert result.raters == ("A", "B", "C")
    assert result.matrix[0][1] == pytest.approx(-1)
    assert result.matrix[0][0] == pytest.approx(1)
    assert result.matrix[0][2] is None  # C gave the same value throughout
    assert result.n_shared[0][1] == 4 * len(SCALES)


def test_two_shared_items_are_no_correlation():
    ratings = [Rating(rater, name, "noise", "Sim1", v) for rater in "AB" for name, v in (("a", 0), ("b", 2))]
    assert rater_correlations(ratings).matrix[0][1] is None


def test_names_need_no_key(tmp_path):
    path = write(tmp_path / "r.csv", "\ufeff" + HEADER + 'A,"tkd, weighted",noise,Sim1,2\nA,tv,discrepancy_tissue,Sim1,1\n')
    assert read_ratings(path) == [Rating("A", "tkd, weighted", "noise", "Sim1", 2), Rating("A", "tv", "discrepancy_tissue", "Sim1", 1)]


def test_codes_are_resolved_by_the_key_beside_the_file_or_a_named_one(tmp_path):
    path = write(tmp_path / "r.csv", HEADER + "A,blind-AAAAAA,noise,Sim1,2\nA,blind-BBBBBB,noise,Sim1,0\n")
    with pytest.raises(InputError, match=r"no \*.key.json file beside it"):
        read_ratings(path)
    (tmp_path / "elsewhere").mkdir()
    key = write(tmp_path / "elsewhere" / "k.key.json", json.dumps({"codes": {"blind-AAAAAA": "tkd", "blind-BBBBBB": "truth"}}))
    assert [r.submission for r in read_ratings(path, key=key)] == ["tkd", TRUTH_NAME]
    write(tmp_path / "foreign.key.json", "no key of ours")
    write(tmp_path / "other.key.json", json.dumps({"codes": {"blind-CCCCCC": "tv"}}))
    write(tmp_path / "this.key.json", key.read_text())
    assert [r.submission for r in read_ratings(path)] == ["tkd", TRUTH_NAME]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rater,submission,category,scan\nA,tkd,noise,Sim1\n", "no column value"),
        (HEADER, "holds no ratings"),
        (HEADER + "A,tkd,nois,Sim1,2\n", "line 2.*did you mean 'noise'"),
        (HEADER + "A,tkd,noise,Sim1,4\n", "line 2.*'4', but noise goes from 0 to 3"),
        (HEADER + "A,tkd,noise,Sim1,1.5\n", "'1.5'"),
        (HEADER + "A,tkd,discrepancy_veins,Sim1,2\n", "goes from 0 to 1"),
        (HEADER + ",tkd,noise,Sim1,2\n", "lacks the rater"),
        (HEADER + "A,tkd,noise,Sim1\n", "None"),
        (HEADER + "A,tkd,noise,Sim1,1\nA,tkd,noise,Sim1,2\n", "twice"),
        (HEADER + 'A,"tkd,noise,Sim1,1\n', "not a valid CSV"),
    ],
)
def test_bad_files(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_ratings(write(tmp_path / "r.csv", text))


def test_a_missing_file_binary_content_and_a_wrong_key(tmp_path):
    with pytest.raises(InputError, match="could not be read"):
        read_ratings(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="could not be read as text"):
        read_ratings(tmp_path / "b.csv")
    for content in ("[]", '{"codes": {}}', '{"codes": {"a": 3}}'):
        with pytest.raises(InputError, match="holds no blind codes"):
            read_key(write(tmp_path / "k.key.json", content))
    path = write(tmp_path / "r.csv", HEADER + "A,blind-AAAAAA,noise,Sim1,2\n")
    with pytest.raises(InputError, match="belongs to another rating page"):
        read_ratings(path, key=write(tmp_path / "k.key.json", '{"codes": {"blind-ZZZZZZ": "tkd"}}'))


def test_categories_do_not_collide():
    assert not set(SCALES) & set(DISCREPANCIES)
