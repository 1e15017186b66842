"""Boxes around masks, and slabs that cover a grid."""

import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.physics.box import mask_box, slabs


def test_a_box_holds_its_mask_and_no_more() -> None:
    mask = torch.zeros((9, 11, 10), dtype=torch.bool)
    mask[2, 4, 7] = mask[5, 9, 3] = True
    assert mask_box(mask) == (slice(2, 6), slice(4, 10), slice(3, 8))
    assert mask_box(mask, margin=3) == (slice(0, 9), slice(1, 11), slice(0, 10))
    assert mask_box(mask.permute(2, 0, 1)) == (slice(3, 8), slice(2, 6), slice(4, 10))


def test_an_empty_mask_has_no_box() -> None:
    with pytest.raises(InputError, match="mask is empty"):
        mask_box(torch.zeros((3, 4, 5), dtype=torch.bool))


@pytest.mark.parametrize("shape", [(7, 300, 500), (1, 2000, 2000), (3_000_000,), (5, 0, 4)])
def test_slabs_cover_a_grid_once(shape: tuple[int, ...]) -> None:
    spans = list(slabs(shape, torch.device("cpu")))
    assert [i for span in spans for i in range(shape[0])[span]] == list(range(shape[0]))
    assert list(slabs(shape, torch.device("meta"))) == [slice(0, shape[0])]
