"""The measurements behind the guard's limits: different heads against each other, and disguised copies at the challenge's size.

    python -m pytest tests/challenge/test_guard_distributions.py -m slow -s -p no:xdist

prints them; docs/truth-guard.md holds what came out. 200 pairs of heads take about twenty minutes on one core.
"""

import functools
import time

import numpy as np
import pytest
from cheats import CHEATS, patch
from scipy import ndimage

from qsmdl.challenge.matching import OUTLINE_THRESHOLD, Reference, detail_threshold, match
from qsmdl.data.recipe import Recipe
from qsmdl.data.sources import PREVIEW_MM, preview_head
from qsmdl.io.fingerprint import volume_signature
from qsmdl.phantom.anatomy.head import draw_head, render_head
from qsmdl.scan import Geometry

pytestmark = pytest.mark.slow
N_CHUNKS, N_PAIRS = 20, 10
SIZE = (PREVIEW_MM,) * 3


@functools.lru_cache(maxsize=2)
def head(index):
    drawn = preview_head(Recipe(), stream="test", seed=1000, index=index)
    return drawn.chi_ppm.numpy(), drawn.mask.numpy()


@pytest.mark.parametrize("chunk", range(N_CHUNKS))
def test_different_heads_are_no_hits(chunk):
    """Head i is the truth, head i + 1 the training volume: whole, as a cube of 64 mm from its middle, and resampled by splines."""
    whole, cubes, resampled = [], [], []
    for index in range(chunk * N_PAIRS, (chunk + 1) * N_PAIRS):
        truth, volume = Reference(*head(index), SIZE), head(index + 1)[0]
        whole.append(match(truth, volume_signature(volume, SIZE)))
        cubes.append(match(truth, volume_signature(np.ascontiguousarray(patch(volume, PREVIEW_MM, 64.0)), SIZE)))
        resampled.append(match(truth, volume_signature(ndimage.zoom(volume, 1.1), SIZE)))
    for name, found in (("whole", whole), ("cube", cubes), ("resampled", resampled)):
        values, outlines = np.array([m.correlation for m in found]), np.array([m.outline for m in found])
        margin = min(detail_threshold(m.overlap_l) - m.correlation for m in found)
        print(
            f"\n{name}: correlation {values.mean():.3f} +- {values.std():.3f}, at most {values.max():.3f}, at least {margin:.3f} below its limit; "
            f"outline {outlines.mean():.3f} +- {outlines.std():.3f}, at most {outlines.max():.3f}; all {[round(float(v), 3) for v in values]} "
            f"{[round(float(v), 3) for v in outlines]}"
        )
        assert margin > 0.05
        assert outlines.max() < OUTLINE_THRESHOLD - 0.02


@functools.cache
def full_size():
    drawn = render_head(draw_head(123, contrast="sim2"), Geometry((164, 205, 205)))
    return drawn.chi_ppm.numpy(), drawn.mask.numpy()


@functools.cache
def full_size_truth():
    return Reference(*full_size(), (1.0, 1.0, 1.0))


@pytest.mark.parametrize("cheat", ["untouched", *CHEATS])
def test_copies_at_full_size_are_hits(cheat):
    """164 x 205 x 205 voxels of 1 mm; well under ten seconds a pair."""
    disguise = CHEATS.get(cheat, lambda values, _: values)
    volume = np.ascontiguousarray(disguise(full_size()[0], 1.0))
    truth, begun = full_size_truth(), time.process_time()
    signature = volume_signature(volume, (1.0, 1.0, 1.0))
    signed = time.process_time()
    found = match(truth, signature)
    done = time.process_time()
    print(
        f"\n{cheat}: {found.correlation:.3f} on {found.overlap_l:.2f} l, limit {detail_threshold(found.overlap_l):.2f}; outline {found.outline:.3f}; "
        f"{signed - begun:.2f} s + {done - signed:.2f} s"
    )
    assert found.is_detail_hit
    assert done - begun < 10
