"""Maps to score: the challenge's golden volumes, and random ones on grids that are no cubes."""

import importlib.util
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

_spec = importlib.util.spec_from_file_location("golden_rc2", Path(__file__).parent / "challenge" / "golden_rc2.py")
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)


def random_case(seed, shape, noise=0.05, scale=0.9, coverage=0.7, n_labels=17):
    """(recon, truth, mask, segmentation) in ppm, with a calcification where label 16 is drawn."""
    rng = np.random.default_rng(seed)
    segmentation = rng.integers(0, n_labels, shape).astype(np.uint8)
    truth = np.linspace(-0.1, 0.2, 17)[segmentation] + 0.02 * rng.standard_normal(shape)
    truth[segmentation == 16] -= 1
    mask = rng.random(shape) < coverage
    mask.flat[0] = True
    segmentation.flat[0] = 8
    recon = scale * truth + noise * rng.standard_normal(shape) + 0.03
    return recon, truth, mask, segmentation


cases = st.builds(
    random_case,
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(5, 12), st.integers(5, 11), st.integers(5, 13)),
    noise=st.floats(0.001, 0.3),
    scale=st.floats(0.3, 1.8),
    coverage=st.sampled_from([0.3, 0.7, 1.0]),
    n_labels=st.sampled_from([9, 16, 17]),
)
