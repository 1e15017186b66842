"""What volume i is drawn from is a function of the settings and i, and is told truthfully."""

import json

import pytest
import torch
from small_sets import SHAPES, config_of, fill

from qsmdl.cli import train as train_module
from qsmdl.cli.train import make_data
from qsmdl.data.engine import Engine
from qsmdl.data.recipe import Recipe, draw_volume, volume_seed
from qsmdl.data.sources import recipe_digest
from qsmdl.errors import InputError
from qsmdl.io.weights import load_weights

LESIONS = {kind: {"probability": 0.8} for kind in ("calcification", "haemorrhage", "microbleed", "iron")}
ENGINE = Engine.from_settings({"lesions": LESIONS, "protocol": {"peak_snr": [30.0, 1000.0]}})
COURSE = {"until": 40, "peak_snr": [500.0, 1000.0], "lesions": 0.0}
RECIPE = Recipe(engine=ENGINE, curriculum=COURSE)


def draw(recipe, number):
    return draw_volume(recipe.at(number), volume_seed("train", 0, number))


def test_snr_and_lesions_widen_to_the_recipe():
    assert RECIPE.at(0).engine.protocol.peak_snr == pytest.approx((500.0, 1000.0))
    assert RECIPE.at(20).engine.protocol.peak_snr == pytest.approx(((500 * 30) ** 0.5, 1000.0))
    assert [RECIPE.at(n).engine.lesions.iron.probability for n in (0, 20, 39, 40, 1000)] == pytest.approx([0, 0.4, 0.78, 0.8, 0.8])
    drawn = [draw(RECIPE, n) for n in range(80)]
    for number, params in enumerate(drawn):
        low, high = RECIPE.at(number).engine.protocol.peak_snr
        assert low <= params.peak_snr <= high
    assert min(p.peak_snr for p in drawn[40:]) < 100
    assert drawn[0].sample.lesions is None
    assert sum(p.sample.lesions is not None for p in drawn[:20]) < sum(p.sample.lesions is not None for p in drawn[20:40])


def test_from_its_end_on_volumes_are_those_of_the_plain_recipe():
    plain = Recipe(engine=ENGINE)
    assert RECIPE.at(40) == plain
    assert draw(RECIPE, 41) == draw(plain, 41)
    # Before, lesions alone are left out: everything else of a volume stays.
    bare = Recipe(engine=ENGINE, curriculum={"until": 40, "lesions": 0.0})
    assert draw(bare, 0).sample.lesions is None
    assert draw(bare, 0).sample.protocol == draw(plain, 0).sample.protocol


def test_the_first_generator_has_a_curriculum_in_snr():
    recipe = Recipe(peak_snr=(30.0, 1000.0), curriculum={"until": 10, "peak_snr": (900.0, 1000.0)})
    assert draw(recipe, 0).peak_snr >= 900
    assert recipe.at(5).peak_snr == pytest.approx(((900 * 30) ** 0.5, 1000.0))


def test_the_digest_tells_the_curriculum_and_older_ones_stay():
    assert len({RECIPE.digest, Recipe(engine=ENGINE).digest, Recipe(engine=ENGINE, curriculum={**COURSE, "until": 41}).digest}) == 3
    assert "curriculum" not in Recipe(engine=ENGINE).to_plain()
    told = json.loads(json.dumps(RECIPE.to_plain()))
    assert recipe_digest(told) == RECIPE.digest == Recipe(**told).digest
    assert Recipe(**told).at(7) == RECIPE.at(7)


@pytest.mark.parametrize(
    ("settings", "engine", "message"),
    [
        ({"until": 5, "peak_snr": [10.0, 100.0]}, ENGINE, r"curriculum\.peak_snr is \[10\.0, 100\.0\], but the recipe's is \[30\.0, 1000\.0\]"),
        ({"until": 5, "lesions": 0.5}, None, r"curriculum\.lesions is 0\.5, but the first generator"),
        ({"until": 5, "lesions": 0.5}, Engine(), r"phantom\.engine\.lesions are all off"),
        ({"until": 0, "lesions": 0.5}, ENGINE, "until is 0; it must be"),
        ({"until": 5}, ENGINE, "nothing would change"),
        ({"until": 5, "lesions": 1.5}, ENGINE, r"lesions is 1\.5"),
        ({"until": 5, "lesion": 0.5}, ENGINE, "curriculum has no setting 'lesion'"),
        ({"until": 2.5, "lesions": 0.5}, ENGINE, r"curriculum\.until is 2\.5"),
    ],
)
def test_what_cannot_be_is_refused(settings, engine, message):
    with pytest.raises(InputError, match=message):
        Recipe(engine=engine, curriculum=settings)


def test_a_volume_is_not_drawn_without_its_number():
    with pytest.raises(InputError, match=r"recipe\.at\(number\)"):
        draw_volume(RECIPE, 3)


SMALL = (*SHAPES, "data.batches_per_volume=2", "data.curriculum.until=2", "data.curriculum.lesions=0", "data.curriculum.peak_snr=[900,1000]")
MANY = ("phantom.engine.lesions.calcification.probability=1", "acquisition.engine.protocol.peak_snr=[30,1000]")
MAGNITUDE = ("data.prior.magnitude=true", "network.adapter.channels=[field,prior,weight,magnitude]", "acquisition.engine.protocol.n_echoes=[2,3]")


def take(iterable, n):
    return [batch for batch, _ in zip(iterable, range(n), strict=False)]


def test_a_fixed_set_holds_the_curriculum(tmp_path):
    """Volume i of a set is volume i of the stream; a set that ends too early, or has another curriculum, is refused."""
    folder = fill(tmp_path / "set", 3, (*SMALL, *MANY))
    told = json.loads((folder / "set.json").read_text())
    assert told["recipe"]["curriculum"] == {"until": 2, "peak_snr": [900.0, 1000.0], "lesions": 0.0}
    streamed, kept = (take(make_data(config_of((*SMALL, *MANY), *more)).train_dataloader(), 6) for more in ((), (f"data.cache.folder={folder}",)))
    assert all(torch.equal(a[name], b[name]) for a, b in zip(streamed, kept, strict=True) for name in a)
    with pytest.raises(InputError, match=r"recipe\.curriculum\.until \(2 instead of 1\)"):
        make_data(config_of((*SMALL, *MANY), "data.curriculum.until=1", f"data.cache.folder={folder}"))
    (folder / "volume_00002.safetensors").unlink()
    with pytest.raises(InputError, match=r"has 2 volumes, but the curriculum ends at number 2"):
        make_data(config_of((*SMALL, *MANY), f"data.cache.folder={folder}"))


@pytest.mark.filterwarnings(
    "ignore::UserWarning:lightning", "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:.*does not have many workers"
)
@pytest.mark.usefixtures("fast_heads")
@pytest.mark.parametrize(("n_steps", "envelope", "fed"), [(2, [900.0, 1000.0], ()), (6, [30.0, 1000.0], MAGNITUDE)])
def test_the_card_tells_what_was_seen(tmp_path, n_steps, envelope, fed, capsys):
    """The envelope of a training that ended within its curriculum is no wider than that had become."""
    words = (*SMALL, *MANY, "data.validation.voxel_size_mm=[6.0,6.0]", f"training.n_steps={n_steps}", *fed)
    _, card = load_weights(train_module.fit(config_of(words), tmp_path))
    assert card["recipe"]["curriculum"]["until"] == 2
    assert card["record"]["sources"][0]["recipe"] == card["recipe"]
    assert card["record"]["sources"][0]["recipe_digest"] == card["recipe_digest"]
    assert "curriculum" not in card["record"]["sources"][1]["recipe"]
    assert card["envelope"]["peak_snr"] == pytest.approx(envelope)
    assert card["envelope"].get("n_echoes") == ([2, 3] if fed else None)  # the field map alone does not tell
    assert ("1 volumes were drawn, but the curriculum ends at number 2" in capsys.readouterr().err) == (n_steps == 2)
