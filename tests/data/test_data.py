import math

import pytest
import torch
from torch.utils.data import DataLoader

from qsmdl.data.datamodule import PhantomData, ValidationPhantoms
from qsmdl.data.inputs import Prior, bounding_box, paste, prepare_inputs
from qsmdl.data.recipe import Recipe, draw_volume, render_volume, volume_seed
from qsmdl.data.stream import PhantomStream, cut_patch, training_volume
from qsmdl.errors import InputError
from qsmdl.physics.dipole import Dipole
from qsmdl.solvers.direct import l2

RECIPE = Recipe(voxel_size_mm=(6.0, 6.0), max_tilt_deg=40.0)
SIZE = (12, 9, 10)


def stream(**changes):
    values = {"patch_size": SIZE, "batch_size": 2, "batches_per_volume": 3, "n_lanes": 1, "seed": 5}
    return PhantomStream(RECIPE, Prior(), **(values | changes))


def take(iterable, n):
    return [batch for batch, _ in zip(iterable, range(n), strict=False)]


def equal(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.usefixtures("fast_heads")
def test_a_stream_is_a_function_of_seed_and_batch_number():
    batches = take(stream(), 5)
    assert all(equal(a, b) for a, b in zip(batches, take(stream(), 5), strict=True))
    assert equal(take(stream(start_batch=4), 1)[0], batches[4])
    assert not equal(batches[0], batches[1])
    assert not equal(batches[0], take(stream(seed=6), 1)[0])


@pytest.mark.usefixtures("fast_heads")
def test_batches_have_the_shapes_that_batch_states():
    batch = take(stream(), 1)[0]
    for name in ("field_ppm", "chi_ppm", "weight", "mask"):
        assert batch[name].shape == (2, 1, *SIZE)
    assert batch["prior_ppm"].shape == (2, 3, *SIZE)
    assert batch["mask"].dtype == torch.bool
    assert batch["voxel_size_mm"].tolist() == [[6.0] * 3] * 2
    assert torch.allclose(batch["b0_direction"].norm(dim=1), torch.ones(2))
    assert float(batch["chi_ppm"][~batch["mask"]].abs().max()) == 0


@pytest.mark.usefixtures("fast_heads")
def test_patches_may_be_centred_on_the_deep_grey_matter():
    """Patches of a single voxel are their centres."""
    shares = []
    for p in (0.0, 0.5, 1.0):
        batch = stream(patch_size=(1, 1, 1), batch_size=200, p_deep_grey=p).batch(0)
        assert bool((batch["mask"] >= batch["deep_grey"]).all())
        shares.append(float(batch["deep_grey"].float().mean()))
    assert shares[0] < 0.1
    assert 0.4 < shares[1] < 0.6
    assert shares[2] == 1.0


@pytest.mark.usefixtures("fast_heads")
def test_volumes_without_deep_grey_matter_are_centred_on_as_ever(monkeypatch):
    monkeypatch.setattr("qsmdl.data.stream.DEEP_GREY_MATTER", (99,))
    batch = stream(p_deep_grey=1.0).batch(0)
    assert not batch["deep_grey"].any()
    assert batch["mask"].any()


@pytest.mark.parametrize(("settings", "n"), [({"batches_per_volume": 4}, 32), ({"batches_per_volume": 40}, 40), ({"patch_size": (160,) * 3}, 2)])
def test_loaders_work_ahead(settings, n):
    """Of a whole volume at least, and through volumes that take longer than others; less where batches are large."""
    assert PhantomData(RECIPE, RECIPE, Prior(), n_workers=1, **settings).train_dataloader().prefetch_factor == n


@pytest.mark.slow
def test_workers_do_not_change_the_stream():
    alone = take(stream(n_lanes=2), 6)
    together = take(DataLoader(stream(n_lanes=2), batch_size=None, num_workers=2), 6)
    assert all(equal(a, b) for a, b in zip(alone, together, strict=True))


def test_workers_must_divide_lanes():
    with pytest.raises(InputError, match="2 loader workers do not divide 3 lanes"):
        take(DataLoader(stream(n_lanes=3), batch_size=None, num_workers=2), 1)


def test_patch_fields_come_from_the_whole_volume():
    """The field of a patch holds what sources outside it cause: it is the crop of the volume's field, not the transform of the patch."""
    params = draw_volume(RECIPE, volume_seed("train", 1, 0), contrast="sim1")
    scan, truth = render_volume(RECIPE, params)
    volumes = training_volume(scan, truth, Prior())
    patch = cut_patch(volumes, tuple(n // 2 for n in scan.geometry.shape), (8, 8, 8))
    start = [n // 2 - 4 for n in scan.geometry.shape]
    crop = volumes["field_ppm"][0, start[0] : start[0] + 8, start[1] : start[1] + 8, start[2] : start[2] + 8]
    assert torch.equal(patch["field_ppm"][0], crop)
    periodic = Dipole((8, 8, 8), params.voxel_size_mm, params.b0_direction, fft_shape=(8, 8, 8))(patch["chi_ppm"][0])
    assert (periodic - crop).norm() > 0.3 * crop.norm()


def test_patches_at_the_border_and_of_small_volumes():
    volume = {"field_ppm": torch.arange(4 * 5 * 6, dtype=torch.float32).reshape(1, 4, 5, 6)}
    assert torch.equal(cut_patch(volume, (0, 0, 0), (2, 2, 2))["field_ppm"][0], volume["field_ppm"][0, :2, :2, :2])
    assert torch.equal(cut_patch(volume, (3, 4, 5), (2, 2, 2))["field_ppm"][0], volume["field_ppm"][0, 2:, 3:, 4:])
    padded = cut_patch(volume, (2, 2, 2), (6, 5, 6))["field_ppm"][0]
    assert torch.equal(padded[:4], volume["field_ppm"][0])
    assert float(padded[4:].abs().max()) == 0


@pytest.mark.usefixtures("fast_heads")
def test_mirrored_patches_stay_physical():
    """Fields of mirrored patches still fit mirrored chi under the mirrored B0: checked on a whole volume taken as one patch."""
    recipe = Recipe(voxel_size_mm=(6.0, 6.0), max_tilt_deg=40.0, peak_snr=(1e6, 1e6), truth="crop")
    shape = draw_volume(recipe, volume_seed("train", 5, 0)).shape
    source = PhantomStream(recipe, Prior(), patch_size=shape, batch_size=6, batches_per_volume=1, n_lanes=1, seed=5, p_drop_weight=0.0)
    batch = source.batch(0)
    assert len({tuple(d.tolist()) for d in batch["b0_direction"]}) > 1

    def misfit(i, direction):
        operator = Dipole(shape, batch["voxel_size_mm"][i].tolist(), direction.tolist())
        mask = batch["mask"][i, 0]
        field, given = operator(batch["chi_ppm"][i, 0])[mask], batch["field_ppm"][i, 0][mask]
        return float((field - given).norm() / given.norm())

    # At 6 mm dephasing and the brain's rim leave a misfit, but the same one however the volume is mirrored.
    first = misfit(0, batch["b0_direction"][0])
    for i in range(6):
        assert misfit(i, batch["b0_direction"][i]) == pytest.approx(first, rel=0.02)
        wrong = batch["b0_direction"][i] * torch.tensor([-1.0, 1.0, 1.0])
        assert misfit(i, wrong) > 1.1 * first


def test_streams_never_share_seeds():
    seeds = {(s, i): volume_seed(s, 0, i) for s in ("train", "validation", "test") for i in range(300)}
    assert len(set(seeds.values())) == len(seeds)


def test_draws_stay_in_their_ranges():
    recipe = Recipe(voxel_size_mm=(1.0, 2.0), peak_snr=(30.0, 1500.0), max_tilt_deg=30.0)
    drawn = [draw_volume(recipe, seed) for seed in range(200)]
    assert all(1 <= d.voxel_size_mm[0] <= 2 and 30 <= d.peak_snr <= 1500 for d in drawn)
    tilts = [math.degrees(math.acos(min(d.b0_direction[2], 1.0))) for d in drawn]
    assert max(tilts) <= 30.0001
    assert 60 < sum(t == 0 for t in tilts) < 140
    assert sum(d.peak_snr < 212 for d in drawn) == pytest.approx(100, abs=30)
    assert recipe.digest == Recipe(voxel_size_mm=(1.0, 2.0), peak_snr=(30.0, 1500.0), max_tilt_deg=30.0).digest != RECIPE.digest


@pytest.mark.usefixtures("fast_heads")
def test_validation_phantoms_are_fixed():
    phantoms, again = (ValidationPhantoms(RECIPE, Prior(), n_volumes=2, seed=0) for _ in range(2))
    assert len(phantoms) == 2
    assert equal(phantoms[0], again[0])
    assert abs(float(phantoms[0]["chi_ppm"].std()) - float(phantoms[1]["chi_ppm"].std())) > 1e-4
    with pytest.raises(IndexError):
        phantoms[2]


def test_inputs_are_cut_and_pasted_back(sample_field):
    inputs = prepare_inputs(sample_field, Prior(), margin=1)
    assert inputs.geometry.shape == tuple(inputs.mask.shape[-3:])
    assert torch.equal(paste(inputs.field_ppm, inputs, sample_field), sample_field.field_ppm * sample_field.mask)
    for i, regularisation in enumerate(Prior().regularisations):
        expected = l2(sample_field, regularisation=regularisation * 5.0**2).chi_ppm
        assert torch.allclose(paste(inputs.prior_ppm[:, i : i + 1], inputs, sample_field), expected, atol=1e-7)
    box = bounding_box(sample_field.mask)
    assert int(sample_field.mask[box].sum()) == int(sample_field.mask.sum())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recipe(voxel_size_mm=(2.0, 1.0)), "low <= high"),
        (lambda: Recipe(peak_snr=(0.0, 10.0)), "positive"),
        (lambda: Recipe(oversampling=0.5), "oversampling"),
        (lambda: Recipe(max_tilt_deg=-1), "max_tilt_deg"),
        (lambda: Recipe(field_of_view_mm=(1.0, 2.0)), "three"),
        (lambda: Prior((0.0,)), "positive"),
        (lambda: Prior(()), "at least one"),
        (lambda: stream(batch_size=0), "batch_size"),
        (lambda: stream(p_drop_weight=2.0), "p_drop_weight is 2.0; a probability"),
        (lambda: stream(p_deep_grey=-0.5), "p_deep_grey is -0.5; a probability"),
        (lambda: volume_seed("train", -1, 0), "at least 0"),
        (lambda: PhantomData(RECIPE, RECIPE, Prior(), n_validation_volumes=0), "n_validation_volumes"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
