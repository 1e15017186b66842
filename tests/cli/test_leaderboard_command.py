"""qsmdl leaderboard, from rows to a folder."""

import csv
import json
import re

import pytest
from synthetic_rows import synthetic_rows

from qsmdl.challenge.protocol import stage_of
from qsmdl.cli.main import main

FIGURES = {
    "nrmse_sim1_sim2_stage1", "correlations_stage1", "pairs_stage1", "spider_stage1", "nrmse_sim1_sim2_stage2", "correlations_stage2",
    "pairs_stage2", "spider_stage2", "stage1_to_stage2", "nrmse_snr1_snr2",
}  # fmt: skip


def write(path, rows):
    path.write_text(json.dumps(rows))
    return str(path)


@pytest.fixture
def files(tmp_path):
    """Six submissions in a file for each stage; rows know nothing but the identifier, as those of blind scoring."""
    blind = [{k: v for k, v in row.items() if k not in ("kind", "attested")} for row in synthetic_rows(6)]
    return [write(tmp_path / f"stage{n}.json", [row for row in blind if stage_of(row) == n]) for n in (1, 2)]


def form(identifier, stage, kind):
    return {
        "identifier": identifier, "stage": stage, "name": "Some method", "acronym": f"M-{identifier[:3]}", "type": kind, "input_used": "all echoes",
        "magnitude_used": True, "regularisation": "none", "seeds": [], "runtime_s": 12.0,
    }  # fmt: skip


def test_rows_forms_ratings_and_published_scores_become_one_folder(tmp_path, files, capsys, monkeypatch):
    monkeypatch.setattr("qsmdl.report.pairs.PAIRED_METRICS", ("rmse", "CalcStreak"))  # the whole grid takes seconds
    names = list(dict.fromkeys(row["method"] for row in synthetic_rows(6)))
    for stage in (1, 2):
        (tmp_path / f"forms{stage}").mkdir()
        for index, name in enumerate(names):
            kind = ("direct", "iterative", "deep learning")[index % 3]
            write(tmp_path / f"forms{stage}" / f"{name}.json", form(name, stage, kind))
    acronyms = [f"M-{name[:3]}" for name in names]
    with (tmp_path / "ratings.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["rater", "submission", "category", "scan", "value"])
        for rater, shift in (("ann", 0), ("bob", 1)):
            for index, name in enumerate([*acronyms, "truth", "stranger"]):
                for category in ("streaking", "unnaturalness", "noise"):
                    writer.writerow([rater, name, category, "Sim1", min(3, index % 3 + shift)])
    out = tmp_path / "board"
    forms = ["--forms", str(tmp_path / "forms1"), str(tmp_path / "forms2")]
    main(["leaderboard", *files, *forms, "--ratings", str(tmp_path / "ratings.csv"), "--published", "-o", str(out)])
    said = capsys.readouterr()
    assert {path.name for path in (out / "figures").iterdir()} == {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")}
    content = json.loads((out / "leaderboard.json").read_text())
    assert [(s["stage"], s["snr_level"], len(s["entries"])) for s in content["standings"]] == [(1, None, 6), (2, None, 6), (2, 1, 6), (2, 2, 6)]
    entries = content["standings"][0]["entries"]
    assert {entry["name"] for entry in entries} == set(acronyms)
    assert {entry["kind"] for entry in entries} == {"direct", "iterative", "deep learning"}
    assert sorted(entry["mean_visual"] for entry in entries) == [0.5, 0.5, 1.5, 1.5, 2.5, 2.5]
    assert all(entry["mean_visual"] is None for entry in content["standings"][1]["entries"])
    assert content["rater_correlations"]["raters"] == ["ann", "bob"]
    assert len(content["published"]) == 20
    assert "ratings of stranger were not used" in content["notes"][0]
    text = (out / "leaderboard.md").read_text()
    assert all(f"](figures/{name}.png)" in text for name in FIGURES)
    assert "Stage 2, SNR1" in said.out
    assert "Published scores" in said.out
    assert "not drawn: best_maps" in said.err


def fails(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main(["leaderboard", *map(str, words)])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_bad_input_is_named_and_leaves_nothing(tmp_path, files, capsys):
    out = tmp_path / "board"
    rows = synthetic_rows(1)
    empty, unknown = write(tmp_path / "empty.json", []), write(tmp_path / "unknown.json", [rows[0] | {"kind": "magic"}])
    lacking = write(tmp_path / "lacking.json", [{"method": "a", "scan": "Sim1"}])
    mixed = write(tmp_path / "mixed.json", [rows[0], rows[0] | {"dialect": "corrected"}])
    for words, message in (
        ([empty], "empty.json holds no rows"),
        ([unknown], "unknown.json: row 1 has the kind 'magic'"),
        ([lacking], "lacking.json: row 1 lacks metrics"),
        ([mixed], r"mix the dialects rc2 \(1 rows\), corrected \(1 rows\).*--dialect"),
        ([mixed, "--dialect", "qsm-ci"], "No row has the dialect 'qsm-ci'"),
        ([files[0], files[0]], "holds twice the row of"),
        ([files[0], write(tmp_path / "again.json", json.loads((tmp_path / "stage1.json").read_text()))], "again.json and .*stage1.json both hold"),
        ([tmp_path / "none.json"], "none.json could not be read"),
        ([files[0], "--forms", tmp_path / "none"], "none is not a folder"),
        ([files[0], "--forms", tmp_path], "hold no form for any row"),
        ([files[0], "--ratings", files[0]], "stage1.json"),
        ([files[0], "--truth", tmp_path], "--maps"),
        ([files[0], "--maps", tmp_path / "none"], "none is not a folder"),
    ):
        assert re.search(message, fails(capsys, *words, "-o", out)), words
        assert not out.exists()


def test_an_existing_folder_is_kept_unless_it_is_a_leaderboard(tmp_path, capsys):
    rows = write(tmp_path / "rows.json", [row for row in synthetic_rows(1) if row["scan"] in ("Sim1", "Sim2")])
    out = tmp_path / "board"
    main(["leaderboard", rows, "-o", str(out)])
    assert "exists" in fails(capsys, rows, "-o", out)
    main(["leaderboard", rows, "-o", str(out), "--overwrite"])
    (out / "mine.txt").write_text("work")
    assert "mine.txt" in fails(capsys, rows, "-o", out, "--overwrite")
    assert (out / "mine.txt").read_text() == "work"
