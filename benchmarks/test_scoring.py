"""Time and memory of scoring a map of the challenge's size: `python -m pytest benchmarks/test_scoring.py -m benchmark -s`."""

import os
import time

import numpy as np
import pytest
import torch

from qsmdl.challenge.metrics import ADDITIONAL_METRICS, DIALECTS, METRICS, score
from qsmdl.challenge.run import PeakMemory

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]
SHAPE = (164, 205, 205)
LARGEST_SECONDS, LARGEST_BYTES = 10, 3 * 2**30


@pytest.fixture(scope="module")
def volumes():
    """A head-sized ellipsoid with every label, as float32 and uint8, the way files are read."""
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in SHAPE], indexing="ij")
    mask = sum((a / s) ** 2 for a, s in zip(axes, (0.85, 0.88, 0.7), strict=True)) < 1
    cells = [np.arange(n) // 12 for n in SHAPE]
    segmentation = ((3 * cells[0][:, None, None] + 5 * cells[1][:, None] + 7 * cells[2]) % 15 + 1).astype(np.uint8)
    truth = (np.linspace(-0.05, 0.2, 17)[segmentation] * mask).astype(np.float32)
    segmentation[80:86, 100:106, 100:106] = 16
    truth[80:86, 100:106, 100:106] = -2
    recon = (0.9 * truth + 0.02 * rng.standard_normal(SHAPE, dtype=np.float32)) * mask
    return recon, truth, mask, segmentation


@pytest.mark.parametrize("dialect", DIALECTS)
def test_all_metrics_of_a_map_of_the_challenge(benchmark, volumes, dialect):
    torch.set_num_threads(2)
    memory = PeakMemory(torch.device("cpu"))
    begun, cpu_begun = time.perf_counter(), time.process_time()
    found = benchmark.pedantic(score, volumes, {"dialect": dialect, "additional": True}, rounds=1)
    seconds, cpu_seconds, peak = time.perf_counter() - begun, time.process_time() - cpu_begun, memory.n_bytes
    print(f"\n{dialect}, {len(found)} metrics of {SHAPE} voxels on {os.cpu_count()} cores: {seconds:.1f} s, all cores together {cpu_seconds:.1f} s,")
    print(f"peak {peak / 2**30:.2f} GiB resident, data included")
    assert set(METRICS) | set(ADDITIONAL_METRICS) <= set(found)
    assert seconds < LARGEST_SECONDS
    assert peak < LARGEST_BYTES
