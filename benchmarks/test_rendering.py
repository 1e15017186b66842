"""How long a training sample takes: `OMP_NUM_THREADS=2 python -m pytest benchmarks/test_rendering.py -m benchmark -s`."""

import dataclasses
import os
import statistics
import time

import pytest
import torch
from hydra import compose, initialize_config_dir

from qsmdl.cli.build import build_recipe, config_folder, plain
from qsmdl.data.recipe import draw_volume, render_phantom, scan_phantom, volume_seed

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]


def test_a_sample_of_128_cubed_with_four_echoes(benchmark):
    """Heads of the engine on a grid of 256 x 256 x 256 voxels, scanned to half of it along each axis."""
    with initialize_config_dir(version_base=None, config_dir=os.fspath(config_folder())):
        config = compose("train", overrides=["phantom=engine", "acquisition=engine"])
    recipe = build_recipe(plain(config.phantom), plain(config.acquisition))
    protocol = dataclasses.replace(recipe.engine.protocol, voxel_size_mm=(1.0, 1.0), n_echoes=(4, 4), anisotropy_probability=0.0)
    engine = dataclasses.replace(recipe.engine, kinds={"head": 1.0}, protocol=protocol)
    recipe = dataclasses.replace(recipe, engine=engine, oversampling=2.0, field_of_view_mm=(128.0, 128.0, 128.0))
    heads, scans, totals, processor = [], [], [], []

    def sample(index):
        params = draw_volume(recipe, volume_seed("train", 0, index))
        begun, cpu = time.perf_counter(), time.process_time()
        phantom = render_phantom(recipe, params)
        rendered = time.perf_counter()
        scan, _ = scan_phantom(recipe, params, phantom, complete=False)
        ended = time.perf_counter()
        assert scan.magnitude.shape == (4, 128, 128, 128)
        heads.append(rendered - begun)
        scans.append(ended - rendered)
        totals.append(ended - begun)
        processor.append(time.process_time() - cpu)

    sample(0)
    for times in (heads, scans, totals, processor):
        times.clear()
    indices = iter(range(1, 7))
    benchmark.pedantic(lambda: sample(next(indices)), rounds=6)
    print(f"\n{torch.get_num_threads()} threads: head {min(heads):.1f} to {max(heads):.1f} s, scan {min(scans):.1f} to {max(scans):.1f} s, together")
    print(f"{min(totals):.1f} to {max(totals):.1f} s, median {statistics.median(totals):.1f} s; processor time {statistics.median(processor):.1f} s")
    assert statistics.median(totals) < 4.0
