"""Every YAML composes and fits what it configures."""

import inspect
import os

import pytest
from hydra import compose, initialize_config_dir

from qsmdl.cli import train as train_module
from qsmdl.cli.build import build_methods, build_recipe, call, plain
from qsmdl.cli.catalogue import config_folder, method_names
from qsmdl.cli.evaluate import evaluate
from qsmdl.methods import CONTEXT
from qsmdl.networks.build import build_network

FILES = sorted(p.relative_to(config_folder()) for p in config_folder().rglob("*.yaml"))
LIGHTNING = pytest.mark.filterwarnings(
    "ignore::UserWarning:lightning", "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:.*many workers"
)


def composed(name, *overrides):
    with initialize_config_dir(version_base=None, config_dir=os.fspath(config_folder())):
        return compose(name, overrides=list(overrides))


def group(name):
    return [p.stem for p in FILES if p.parts[0] == name]


def test_no_file_is_forgotten():
    groups = {"acquisition", "data", "debug", "experiment", "method", "network", "paths", "phantom", "search", "sweep", "trainer", "training"}
    assert {p.parts[0] for p in FILES if len(p.parts) == 2} == groups
    assert {p.stem for p in FILES if len(p.parts) == 1} == {"train", "evaluate"}


@pytest.mark.parametrize("name", group("network"))
def test_networks_are_built(name):
    assert build_network(plain(composed("train", "experiment=none", f"network={name}").network)).n_parameters > 1e5


@pytest.mark.parametrize("name", group("phantom"))
@pytest.mark.parametrize("acquisition", group("acquisition"))
def test_recipes_are_built(name, acquisition):
    config = composed("train", "experiment=none", f"phantom={name}", f"acquisition={acquisition}")
    recipe = build_recipe(plain(config.phantom), plain(config.acquisition))
    assert recipe.contrast == (name if name.startswith("sim") else "random")
    assert (recipe.engine is not None) == ("engine" in (name, acquisition))
    flat = plain(config.acquisition)
    if acquisition != "engine":  # an acquisition of the first generator is the engine's protocol, too
        assert recipe.protocol_ranges.peak_snr == tuple(flat["peak_snr"])
        assert recipe.protocol_ranges.voxel_size_mm == tuple(flat["voxel_size_mm"])
        assert recipe.envelope["max_tilt_deg"] == flat["max_tilt_deg"]
    # Validation goes back to the first generator.
    assert build_recipe(plain(config.phantom), flat, {"engine": None}).engine is None


@pytest.mark.parametrize("name", method_names())
def test_a_method_lists_every_setting_of_its_function(name):
    config = composed("evaluate", f"method=[{name}]")
    method = build_methods(config.method)[0]
    parameters = inspect.signature(method.function).parameters
    settings = {k for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY and k not in CONTEXT}
    steps = {"unring", "select"} if method.about.parameter else {"unring"}
    assert set(method.settings) == settings | steps


def test_stage_2_may_tune_whatever_has_a_search_space():
    assert set(composed("evaluate").search) == set(group("search"))


@LIGHTNING
@pytest.mark.usefixtures("fast_heads")
@pytest.mark.parametrize("name", group("experiment"))
def test_experiments_run(name, tmp_path):
    """The experiment's own settings, on heads at 6 mm and a network small enough for a test."""
    small = [
        "debug=fast", "data.patch_size=[16,16,16]", "data.batch_size=1", "network.keywords.width=2", "network.keywords.depth=1", "training.n_steps=2",
        "acquisition.voxel_size_mm=[6.0,6.0]", "data.validation.voxel_size_mm=[6.0,6.0]", "trainer.accelerator=cpu", "trainer.precision=32-true",
    ]  # fmt: skip
    if name in ("unet_engine", "flagship_small", "flagship", "denoiser"):
        small.append("phantom.engine.max_voxels=20000")
    assert train_module.fit(composed("train", f"experiment={name}", *small), tmp_path).exists()


@pytest.mark.parametrize("name", group("trainer"))
def test_trainers_are_made(name, tmp_path, monkeypatch):
    config = composed("train", f"trainer={name}")
    seen = {}
    monkeypatch.setattr(train_module.lightning, "Trainer", lambda **settings: seen.update(settings))
    train_module.make_trainer(config, tmp_path, [])
    assert seen["accelerator"] == name
    assert set(plain(config.trainer)) <= set(inspect.signature(__import__("lightning").pytorch.trainer.trainer.Trainer.__init__).parameters)


@pytest.mark.usefixtures("fast_heads")
def test_the_builtin_pair_is_evaluated(tmp_path, capsys):
    config = composed("evaluate", "method=[tkd,tv]", "data.voxel_size_mm=6.0", "method.tv.n_iterations=5")
    rows = evaluate(config, tmp_path)
    assert [(r["scan"], r["method"]) for r in rows] == [("Sim1", "tkd"), ("Sim1", "tv"), ("Sim2", "tkd"), ("Sim2", "tv")]
    assert all(set(r) >= {"method", "scan", "metrics", "seconds", "peak_bytes", "seed", "stopped"} for r in rows)
    assert {p.name for p in tmp_path.iterdir()} >= {"rows.json", "rows.csv", "montage_Sim1.png", "montage_Sim2.png", "maps", "curves_Sim1.png"}
    assert len(list((tmp_path / "maps").glob("*.nii.gz"))) == 4
    assert "mean of Sim1, Sim2" in capsys.readouterr().out


def test_releases_name_what_is_missing(tmp_path):
    config = composed("evaluate", "data=release", f"data.root={tmp_path}")
    with pytest.raises(ValueError, match="holds no scan"):
        call("data", config.data, seed=0)
    config = composed("evaluate", "data=release", f"data.root={tmp_path / 'nowhere'}")
    with pytest.raises(ValueError, match="not a folder"):
        call("data", config.data, seed=0)
