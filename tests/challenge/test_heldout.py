"""The heads of held-out studies."""

import itertools
import math

import pytest
import torch

from qsmdl.challenge.heldout import check_snrs, held_out_head
from qsmdl.data.recipe import STREAMS, fine_geometry, volume_seed
from qsmdl.errors import InputError

HEADS = [held_out_head(number) for number in range(24)]


def test_a_study_of_twenty_has_every_kind_in_both_contrasts():
    kinds = [(head.params.contrast, head.traits) for head in HEADS[:20]]
    assert [contrast for contrast, _ in kinds] == ["sim1", "sim2"] * 10
    counts = {traits: sum(own == traits for _, own in kinds) for _, traits in kinds}
    assert counts == {(): 10, ("anisotropic",): 4, ("oblique",): 5, ("anisotropic", "oblique"): 1}
    for trait in ("anisotropic", "oblique"):
        assert {contrast for contrast, traits in kinds if trait in traits} == {"sim1", "sim2"}


def test_geometries_are_what_their_traits_say():
    for head in HEADS:
        (x, y, z), (_, _, cosine) = head.params.voxel_size_mm, head.params.b0_direction
        assert (x, y) == (1.0, 1.0)
        assert 1.5 <= z <= 2 if "anisotropic" in head.traits else z == 1
        assert 10 <= math.degrees(math.acos(cosine)) <= 30 if "oblique" in head.traits else cosine == 1
        assert head.params.shape == (164, 205, round(205 / z))
        assert fine_geometry(head.recipe, head.params).shape == pytest.approx((256, 320, 320), abs=2)
    directions = [head.params.b0_direction for head in HEADS if "oblique" in head.traits]
    assert len(set(directions)) == len(directions)


def test_a_head_is_determined_by_its_number_and_the_seed():
    assert held_out_head(7) == HEADS[7]
    assert held_out_head(7).at(30.0) == HEADS[7].at(30.0)
    assert held_out_head(7, seed=1).params.head_seed != HEADS[7].params.head_seed
    assert len({head.params.head_seed for head in HEADS}) == len(HEADS)
    # coarse voxels show the very same head
    assert held_out_head(7, voxel_size_mm=6.0).params.head_seed == HEADS[7].params.head_seed


def test_no_head_is_that_of_another_stream():
    seeds = {stream: {volume_seed(stream, seed, i) for seed in (0, 5000) for i in range(200)} for stream in STREAMS}
    assert volume_seed("test", 5000, 3) in seeds["test"]
    assert all(not seeds[a] & seeds[b] for a, b in itertools.combinations(STREAMS, 2))


def test_each_snr_has_noise_of_its_own():
    at = {snr: HEADS[0].at(snr) for snr in (30.0, 100.0, 300.0, 1000.0)}
    assert len({params.noise_seed for params in at.values()}) == 4
    assert {params.head_seed for params in at.values()} == {HEADS[0].params.head_seed}
    assert [params.name for params in at.values()] == [f"Sim1_00_snr{snr:g}" for snr in at]
    torch.Generator().manual_seed(at[30.0].noise_seed)
    assert HEADS[0].drawn_as(30.0) != HEADS[0].drawn_as(100.0)


def test_snrs_are_ordered():
    assert check_snrs([1000, 30]) == (30.0, 1000.0)


@pytest.mark.parametrize("snrs", [[], [30, 30], [0, 30], [math.inf], [-30]])
def test_snrs_that_cannot_be(snrs):
    with pytest.raises(InputError, match="The peak SNRs are"):
        check_snrs(snrs)


def test_heads_that_cannot_be():
    with pytest.raises(InputError, match="voxel_size_mm is 0"):
        held_out_head(0, voxel_size_mm=0)
    with pytest.raises(InputError, match="index -1"):
        held_out_head(-1)
