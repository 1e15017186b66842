"""Copies of a truth are recognised whatever was done to them; different heads are not taken for copies."""

import numpy as np
import pytest
import torch
from cheats import CHEATS, patch

from qsmdl.challenge.matching import ORIENTATIONS, Reference, detail_threshold, match, oriented, outline_correlation
from qsmdl.data.recipe import Recipe
from qsmdl.data.sources import PREVIEW_MM, preview_head
from qsmdl.io.fingerprint import Signature, volume_signature

MM = 5.0
SIZE = (MM,) * 3


@pytest.fixture(scope="module")
def head(sample):
    """A scanned head's truth, 0 outside the mask, and its mask."""
    return sample[1].chi_ppm.numpy(), sample[1].mask.numpy()


@pytest.fixture(scope="module")
def other():
    """Another head at 2 mm, as it is generated."""
    drawn = preview_head(Recipe(), stream="test", seed=40, index=0)
    return drawn.chi_ppm.numpy(), drawn.mask.numpy()


@pytest.fixture(scope="module")
def truth(head):
    return Reference(*head, SIZE)


def through_a_record(volume, size_mm=SIZE):
    return Signature.decode(volume_signature(np.ascontiguousarray(volume), size_mm).encode())


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_hidden_truth_is_found(head, truth, cheat):
    found = match(truth, through_a_record(CHEATS[cheat](head[0], MM)))
    assert found.is_detail_hit, found
    assert found.correlation > detail_threshold(found.overlap_l) + 0.05  # not by a hair


def test_another_head_is_no_hit(other, truth):
    """Two hundred others: tests/challenge/test_guard_distributions.py."""
    size = (PREVIEW_MM,) * 3
    whole, cube = match(truth, through_a_record(other[0], size)), match(truth, through_a_record(patch(other[0], PREVIEW_MM), size))
    for found in (whole, cube):
        assert found.correlation < detail_threshold(found.overlap_l) - 0.1
        assert not found.is_outline_hit, found


@pytest.mark.parametrize("change", [lambda m: m, lambda m: m[::-1], lambda m: np.rot90(m, axes=(0, 1)), lambda m: m[4:-4, 5:-5, 4:] * 7.0])
def test_a_mask_is_found(head, truth, change):
    """It has no texture: its outline must tell."""
    found = match(truth, through_a_record(change(head[1].astype(np.float32))))
    assert found.is_outline_hit
    assert found.correlation == 0


def test_another_mask_is_no_hit(other, truth):
    assert not match(truth, through_a_record(other[1].astype(np.float32), (PREVIEW_MM,) * 3)).is_outline_hit


def test_the_other_contrast_of_a_head_is_found(head):
    """Sim1 and Sim2 of one head share its geometry: training on one is training on the other's anatomy."""
    chi, mask = head
    tissue = ((chi > np.median(chi[mask])) & mask) * 0.3 + mask * 0.1
    assert outline_correlation(Reference(chi, mask, SIZE), through_a_record(tissue)) > 0.95


def test_there_are_48_orientations():
    volume = np.arange(24).reshape(2, 3, 4)
    assert len({(v.shape, v.tobytes()) for v in (np.ascontiguousarray(oriented(volume, o)) for o in ORIENTATIONS)}) == 48


def test_less_overlap_needs_more_agreement():
    limits = [detail_threshold(litres) for litres in (1.4, 0.7, 0.3, 0.1, 0.0)]
    assert limits == sorted(limits)
    assert limits[-1] < 1


def test_a_constant_truth_matches_nothing(head):
    empty = Reference(head[1].astype(np.float32), head[1], SIZE)
    found = match(empty, through_a_record(head[0]))
    assert found.correlation == 0
    assert torch.isfinite(torch.tensor(found.outline))
