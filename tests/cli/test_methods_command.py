"""qsmdl methods, and a method of one's own in a folder, from its two files to the report."""

import json
import os
import subprocess
import sys

import pytest
from small_releases import STAGE_1, write_scans

from qsmdl.about import about_of
from qsmdl.cli.build import as_override, method_from_command_line, runnable_methods
from qsmdl.cli.catalogue import config_folder, load_function, method_files, method_names, search_space
from qsmdl.cli.main import main
from qsmdl.cli.methods import keywords_of
from qsmdl.errors import InputError
from qsmdl.methods import FLAGSHIP_WEIGHTS
from qsmdl.methods.weights import DENOISER_WEIGHTS

FUNCTION = '''
from qsmdl.scan import ChiMap, FieldMap
from qsmdl.solvers.direct import tkd


def blunt(field: FieldMap, *, limit: float = 0.3) -> ChiMap:
    """TKD with a blunt limit."""
    return tkd(field, threshold=limit)
'''
YAML = """# @package method.blunt
_target_: blunt_methods.blunt
limit: 0.3   # of |D|, chosen by eye
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with one function and one YAML, outside of the package."""
    folder = tmp_path / "mine"
    (folder / "method").mkdir(parents=True)
    (folder / "blunt_methods.py").write_text(FUNCTION)
    (folder / "method" / "blunt.yaml").write_text(YAML)
    monkeypatch.setenv("QSMDL_METHODS", str(folder))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield folder
    sys.modules.pop("blunt_methods", None)


def fails(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_the_table_tells_what_each_method_is(capsys):
    main(["methods"])
    printed = capsys.readouterr().out
    for heading in ("Method", "Type", "Input", "Parameter", "Reference", "Checked against"):
        assert heading in printed
    lines = {line.split()[0]: line for line in printed.splitlines() if line.strip()}
    for name, path in method_files().items():
        about = about_of(load_function(path))
        assert about.kind in lines[name]
        assert about.reference.split(",")[0] in lines[name]
        assert (f"{name} *" in lines[name]) == about.from_description
    assert "from the description" in printed


@pytest.mark.parametrize("name", method_names())
def test_everything_about_one_method(name, capsys):
    main(["methods", name])
    printed = capsys.readouterr().out
    path = method_files()[name]
    for line in path.read_text().splitlines():
        if not line.startswith(("#", "_target_")) and ": " in line and not line[:1].isspace():
            assert line.split(":")[0] in printed
    assert (load_function(path).__doc__ or "").splitlines()[0].strip() in printed
    assert "unring" in printed
    assert ("select_candidates" in printed) == bool(about_of(load_function(path)).parameter)


def test_units_and_sources_come_from_the_yaml(own):
    assert method_files()["blunt"] == own / "method" / "blunt.yaml"
    found = {keyword.name: keyword for keyword in keywords_of(own / "method" / "blunt.yaml")}
    assert (found["limit"].default, found["limit"].comment) == ("0.3", "of |D|, chosen by eye")
    steps = ["crop_phase", "unring", "strong_sources", "large_scales", "fine_scales", "structures"]
    assert list(found) == ["limit", *steps]
    (own / "method" / "blunt.yaml").write_text("# @package method.blunt\n_target_: blunt_methods.blunt\n")
    defaults = [(keyword.name, keyword.default) for keyword in keywords_of(own / "method" / "blunt.yaml")]
    assert defaults == [("limit", "0.3"), *((step, "false") for step in steps)]


def test_an_unknown_method_is_named(capsys):
    assert "did you mean 'tkd'" in fails(capsys, "methods", "tkdd")


def test_a_broken_method_hides_no_other(own, capsys):
    (own / "method" / "broken.yaml").write_text("# @package method.broken\n_target_: nowhere.function\n")
    main(["methods"])
    printed = capsys.readouterr().out
    assert "nowhere.function" in printed
    assert "QSMDL_METHODS" in printed
    assert "blunt" in printed
    assert "tkd" in printed
    error = fails(capsys, "methods", "broken")
    assert "cannot be imported" in error


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("blunt", "_target_: blunt_methods.blunt\n", "no line '# @package method.blunt'"),
        ("tkd", "# @package method.tkd\n_target_: blunt_methods.blunt\n", "has the name of"),
        ("two-words", "# @package method.two-words\n_target_: blunt_methods.blunt\n", "names no method"),
        ("blunt", "# @package method.blunt\n- 1\n", "holds no entries"),
    ],
)
def test_yaml_that_would_be_misread_is_named(own, name, text, message):
    (own / "method" / f"{name}.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        method_from_command_line("blunt" if name == "blunt" else "tv")


def test_a_folder_without_methods_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("QSMDL_METHODS", str(tmp_path))
    with pytest.raises(InputError, match="holds no folder 'method'"):
        method_names()


def test_words_of_every_method():
    assert as_override("method.tv.unring=true") == "++method.tv.unring=true"
    assert as_override("method.tv.penalty=1") == "method.tv.penalty=1"
    names = runnable_methods()
    assert as_override("method=all") == f"method=[{','.join(names)}]"
    assert {"tkd", "tv", "unet"} <= set(names)
    several = {n for n, p in method_files().items() if about_of(load_function(p)).input == "several orientations"}
    shipped = {"flagship": FLAGSHIP_WEIGHTS, "flagship_fine": FLAGSHIP_WEIGHTS, "pnp": DENOISER_WEIGHTS}
    unshipped = {name for name, path in shipped.items() if not path.exists()}
    assert set(method_names()) - set(names) == several | unshipped


def test_candidates_stay_within_the_search_space():
    """A decade on either side of the threshold 0.2 would leave the range of |D|."""
    method = method_from_command_line("tkd", ["select=lcurve"])
    bounds = search_space("tkd")["threshold"]
    candidates = method.settings["select_candidates"]
    assert (candidates[0], candidates[-1]) == (bounds["low"], bounds["high"])
    given = method_from_command_line("tkd", ["select=lcurve", "select_candidates=[0.1,0.15,0.2,0.25,0.3]"])
    assert given.settings["select_candidates"] == [0.1, 0.15, 0.2, 0.25, 0.3]


def run(tmp_path, own, *words):
    """A command of the clone, with nothing but the environment variable to tell of the method."""
    environment = {**os.environ, "QSMDL_METHODS": str(own), "PYTHONPATH": os.pathsep.join(["."])}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=config_folder().parent, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_function_and_one_yaml_are_enough(tmp_path, own, sample):
    """qsmdl methods, qsmdl reconstruct, evaluate.py and qsmdl report know it, in processes of their own."""
    release = write_scans(tmp_path / "release", sample, STAGE_1)
    command = ("-c", "from qsmdl.cli.main import main; main()")
    assert "of |D|, chosen by eye" in run(tmp_path, own, *command, "methods", "blunt")
    chi = tmp_path / "chi.nii.gz"
    run(tmp_path, own, *command, "reconstruct", str(release / "Sim1"), "--method", "blunt", "limit=0.2", "unring=true", "-o", str(chi))
    assert json.loads((tmp_path / "chi.json").read_text())["settings"] == {"limit": 0.2, "unring": True}
    folder = tmp_path / "run"
    words = ["method=[tkd,blunt]", f"data.root={release}", "method.blunt.limit=0.25", "method.blunt.unring=true", f"hydra.run.dir={folder}"]
    assert "blunt" in run(tmp_path, own, "evaluate.py", *words)
    rows = json.loads((folder / "rows.json").read_text())
    assert [row["method"] for row in rows] == ["tkd", "blunt"] * 2
    assert all(row["metrics"]["rmse"] > 0 for row in rows)
    page = tmp_path / "report.html"
    run(tmp_path, own, *command, "report", str(folder), "-o", str(page), "--without-maps")
    assert "blunt" in page.read_text()
