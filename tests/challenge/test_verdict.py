"""Forms joined to rows."""


import json

import pytest
from archive_samples import ID
from judging_desk import make_form

from qsmdl.challenge.verdict import join_forms
from qsmdl.errors import InputError


def rows_of(*identifiers):
    unsaid = {"metrics": {}, "seconds": 0.0, "peak_bytes": None, "seed": None, "stopped": "submitted"}
    return [{"method": one, "scan": "Sim1", **unsaid} for one in identifiers]


def write_form(folder, form):
    (folder / f"{form.identifier}.json").write_text(json.dumps(form.to_plain()))


def test_names_stay_apart_whatever_the_forms_say(tmp_path):
    one, two, three, four = "A" * 10, "B" * 10, "C" * 10, "D" * 10
    for identifier, acronym in ((one, "NDI"), (two, "NDI"), (three, two)):
        write_form(tmp_path, make_form(identifier, acronym, "iterative"))
    joined = join_forms(rows_of(one, two, three, four), tmp_path, stage=1)
    assert [row["method"] for row in joined.rows] == [f"NDI ({one})", f"NDI ({two})", f"{two} ({three})", four]
    assert [row.get("kind") for row in joined.rows] == ["iterative"] * 3 + [None]
    assert joined.rows[3]["stopped"] == "submitted, no form"
    assert len(joined.problems) == 1


def test_no_submission_takes_the_name_of_the_truth(tmp_path):
    """Ratings call the truth so, and would give the submission its marks."""
    write_form(tmp_path, make_form(ID, "truth", "iterative"))
    (row,) = join_forms(rows_of(ID), tmp_path, stage=1).rows
    assert row["method"] == f"truth ({ID})"


def test_forms_that_do_not_fit_leave_the_scores(tmp_path):
    write_form(tmp_path, make_form(ID, "X", "direct", stage=2))
    (tmp_path / "BBBBBBBBBB.json").write_text(json.dumps(make_form(ID, "Y", "direct").to_plain()))
    (tmp_path / "CCCCCCCCCC.json").write_text("{}")
    joined = join_forms(rows_of(ID, "B" * 10, "C" * 10), tmp_path, stage=1)
    assert [row["method"] for row in joined.rows] == [ID, "B" * 10, "C" * 10]
    assert "in stage 2, not of" in joined.problems[0]
    assert "is the form of AB12CD34EF" in joined.problems[1]
    assert "lacks" in joined.problems[2]
    with pytest.raises(InputError, match="is not a folder"):
        join_forms(rows_of(ID), tmp_path / "nowhere", stage=1)
    assert join_forms(rows_of(ID), None, stage=1).problems == []


def test_several_seeds_are_no_seed(tmp_path):
    write_form(tmp_path, make_form(ID, "X", "deep learning", seeds=(1, 2)))
    (row,) = join_forms(rows_of(ID), tmp_path, stage=1).rows
    assert (row["seed"], row["attested"]) == (None, False)
