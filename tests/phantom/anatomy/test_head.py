"""The procedural head: all labels, reproducible, the same anatomy at every resolution, brain-only chi."""

from dataclasses import asdict, replace
from functools import cache

import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.phantom.anatomy.head import HeadParams, draw_head, render_head
from qsmdl.phantom.anatomy.texture import tissue_means
from qsmdl.phantom.drawing.sampling import Lattice, head_axes, head_scale
from qsmdl.phantom.scanning.downsample import coarse_labels
from qsmdl.phantom.tissue.contrast import ContrastName
from qsmdl.scan import LABELS, Geometry, Phantom

SMALL = Geometry((48, 60, 59), (3.42, 3.42, 3.48))


@cache
def _rendered(seed: int, contrast: ContrastName, geometry: Geometry) -> Phantom:
    return render_head(draw_head(seed, contrast=contrast), geometry)


def head(seed: int = 3, contrast: ContrastName = "sim2", geometry: Geometry = SMALL) -> Phantom:
    return _rendered(seed, contrast, geometry)


MODERATE = Geometry((96, 120, 118), (1.71, 1.71, 1.74))  # twice as fine as SMALL over the same field of view


def test_all_labels_are_present() -> None:
    present = set(head(geometry=MODERATE).labels.unique().tolist())
    assert present == set(LABELS.values())


def test_sim1_has_no_calcification_and_the_same_anatomy_otherwise() -> None:
    without, with_stone = head(contrast="sim1"), head()
    stone = LABELS["calcification"]
    assert not bool((without.labels == stone).any())
    assert not draw_head(3, contrast="sim1").has_calcification
    differs = without.labels != with_stone.labels
    assert bool((with_stone.labels[differs] == stone).all())
    assert torch.equal(without.mask, with_stone.mask)


def test_calcification_can_be_asked_for() -> None:
    assert draw_head(0, contrast="sim1", calcification=True).has_calcification
    assert not draw_head(0, contrast="sim2", calcification=False).has_calcification
    habits = {draw_head(seed, contrast="random").has_calcification for seed in range(12)}
    assert habits == {True, False}


def test_the_calcification_is_strongly_diamagnetic() -> None:
    phantom = head(geometry=MODERATE)
    stone = phantom.chi_ppm[phantom.labels == LABELS["calcification"]]
    assert -3.5 < float(stone.min()) < -1.0


def test_same_seed_same_bits_other_seed_another_head() -> None:
    first, again, other = head(), render_head(draw_head(3, contrast="sim2"), SMALL), head(4)
    for name in ("chi_ppm", "m0", "r1_per_s", "r2star_per_s", "labels", "mask"):
        assert torch.equal(getattr(first, name), getattr(again, name)), name
    brain = first.mask & other.mask
    assert float((first.labels[brain] != other.labels[brain]).float().mean()) > 0.2
    assert draw_head(3, contrast="sim2") == draw_head(3, contrast="sim2") != draw_head(4, contrast="sim2")


def _dice(a: torch.Tensor, b: torch.Tensor) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def test_same_anatomy_at_two_resolutions() -> None:
    fine = head(geometry=MODERATE)
    coarse = head()
    resampled = coarse_labels(fine.labels, SMALL.shape)
    for name, least in (("white_matter", 0.85), ("grey_matter", 0.8), ("thalamus", 0.85), ("putamen", 0.8)):
        assert _dice(resampled == LABELS[name], coarse.labels == LABELS[name]) > least, name
    shift = [float(fine.mask.nonzero().double().mean(0)[i] / 2 - coarse.mask.nonzero().double().mean(0)[i]) for i in range(3)]
    assert max(map(abs, shift)) < 0.1


def test_chi_is_zero_outside_the_brain_and_varied_inside() -> None:
    phantom = head()
    assert float(phantom.chi_ppm[~phantom.mask].abs().max()) == 0
    assert float(phantom.chi_ppm[phantom.mask].std()) > 0.01
    brain = set(phantom.labels[phantom.mask].unique().tolist())
    assert not brain & {LABELS[name] for name in ("fat", "bone", "air", "muscle")}


def test_texture_follows_the_relaxation_rates_within_a_tissue() -> None:
    """chi = chi_ref + a (R2* - mean) + b (R1 - mean), without the softening of borders and away from vessels."""
    params = replace(draw_head(5, contrast="sim1"), blur_mm=0.0, n_cortical_veins=1, n_deep_veins=1)
    phantom = render_head(params, SMALL)
    table = params.contrast
    for name in ("white_matter", "thalamus"):
        label = LABELS[name]
        chosen = phantom.labels == label
        r2star, r1, chi = (m[chosen] for m in (phantom.r2star_per_s, phantom.r1_per_s, phantom.chi_ppm))
        expected = table.chi_ppm[label] + table.r2star_slope[label] * (r2star - r2star.mean()) + table.r1_slope[label] * (r1 - r1.mean())
        pure = (chi - expected).abs() < 2e-4
        assert float(pure.float().mean()) > 0.9, name
        assert float(expected.std()) > 5e-4, name


def test_tissue_means() -> None:
    means = tissue_means(torch.tensor([1.0, 3.0, 10.0]), torch.tensor([8, 8, 9], dtype=torch.int32))
    assert means[8] == 2
    assert means[9] == 10
    assert means[1] == 0


def test_both_contrasts_are_ordered_as_in_the_challenge() -> None:
    sim1, sim2 = head(contrast="sim1"), head()

    def contrast(phantom: Phantom) -> float:
        grey, white = (phantom.chi_ppm[phantom.labels == LABELS[name]].median() for name in ("grey_matter", "white_matter"))
        return float(grey - white)

    assert 0 < contrast(sim1) < 0.5 * contrast(sim2)


def test_the_cortex_is_folded() -> None:
    """CSF reaches deep into the hemispheres, and both hemispheres are folded in their own way."""
    phantom = head(geometry=MODERATE)
    grey = phantom.labels == LABELS["grey_matter"]
    white = phantom.labels == LABELS["white_matter"]
    touching = sum(int((grey.roll(1, axis) & white).sum() + (grey & white.roll(1, axis)).sum()) for axis in range(3))
    surface_mm2 = touching * 1.72**2
    assert surface_mm2 > 120_000  # a smooth ellipsoid of this size has about 40 000 when counted by voxel faces
    assert _dice(grey, grey.flip(0)) < 0.7


def test_a_small_field_of_view_holds_a_small_head() -> None:
    small = Geometry((48, 56, 52))
    assert head_scale(small) == pytest.approx(52 / 205)
    phantom = head(1, "random", small)
    assert 0.1 < float(phantom.mask.float().mean()) < 0.35
    assert head_scale(Geometry((256, 256, 256))) == 1.0


def test_voxel_zero_stays_in_place_across_resolutions() -> None:
    fine, coarse = head_axes(Geometry((100, 80, 90), (2, 3, 2.5))), head_axes(Geometry((50, 40, 45), (4, 6, 5)))
    for a, b in zip(fine, coarse, strict=True):
        assert torch.allclose(a[::2], b)


def test_parameters_travel_as_plain_numbers() -> None:
    params = draw_head(7, contrast="random")
    assert HeadParams.from_dict(head(3).params) == draw_head(3, contrast="sim2")
    assert HeadParams.from_dict(asdict(params)) == params


def test_bad_requests_are_refused() -> None:
    with pytest.raises(InputError, match="contrast is 'sim3'"):
        draw_head(0, contrast="sim3")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="seed is -1"):
        draw_head(-1, contrast="sim1")
    with pytest.raises(InputError, match="variation is 2"):
        draw_head(0, contrast="sim1", variation=2)
    params = draw_head(0, contrast="sim1")
    with pytest.raises(InputError, match="8 mm or less"):
        render_head(params, Geometry((12, 14, 14)))
    with pytest.raises(InputError, match="cortex_mm is 0"):
        replace(params, cortex_mm=0.0)
    with pytest.raises(InputError, match="scale is"):
        replace(params, scale=(2.0, 1.0, 1.0))
    with pytest.raises(InputError, match="14 entries"):
        replace(params, nucleus_scale=(1.0,))
    with pytest.raises(InputError, match="17 finite numbers"):
        replace(params.contrast, chi_ppm=(0.0,) * 16)
    with pytest.raises(InputError, match="must not be negative"):
        replace(params.contrast, r1_per_s=(-1.0,) * 17)
    with pytest.raises(InputError, match="unknown names"):
        HeadParams.from_dict({**asdict(params), "moustache": 1})


def test_few_planes_are_read_as_many() -> None:
    lattice = Lattice((12, 14, 10), 2.0)
    field = torch.randn((2, *lattice.shape), generator=torch.Generator().manual_seed(0))
    x, y, z = (torch.linspace(-14, 12, n) for n in (40, 17, 23))
    whole = lattice.read(field, (x, y, z))
    for span in (slice(0, 3), slice(19, 20), slice(35, 40)):
        assert torch.allclose(lattice.read(field, (x[span], y, z)), whole[:, span], atol=1e-5)


def test_slabs_do_not_change_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = Geometry((33, 41, 41), (5.0, 5.0, 5.0))
    heads = []
    for n_voxels in (1 << 19, 3000):
        monkeypatch.setattr("qsmdl.physics.box._SLAB_VOXELS", n_voxels)
        heads.append(render_head(draw_head(5, contrast="sim1"), geometry, surroundings=False, partial_volume=True))
    one, other = heads
    assert torch.equal(one.mask, other.mask)
    assert int((one.labels != other.labels).sum()) <= 2
    for name in ("chi_ppm", "r1_per_s", "r2star_per_s", "m0"):
        assert torch.allclose(getattr(one, name), getattr(other, name), rtol=1e-4, atol=1e-4 * float(getattr(one, name).abs().max()))
