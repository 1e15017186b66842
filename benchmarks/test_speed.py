"""Timings, printed as ratios in one run: `python -m pytest benchmarks -m benchmark -s`."""

import functools
import os
import statistics
import time

import pytest
import torch
from hydra import compose, initialize_config_dir

from qsmdl.cli import train as train_module
from qsmdl.cli.build import config_folder
from qsmdl.data.recipe import Recipe, draw_volume, render_volume, volume_seed
from qsmdl.physics.dipole import Dipole
from qsmdl.physics.fieldmap import fit_field
from qsmdl.physics.fourier import irfft3, rfft3
from qsmdl.solvers.grid import WorkingGrid
from qsmdl.solvers.l1qsm import l1qsm, nll1qsm
from qsmdl.solvers.tgv import nltgv, tgv
from qsmdl.solvers.tv import nltv, tv

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]
SHAPE = (164, 205, 205)


def alternated(functions, rounds):
    """Median seconds of each function; they take turns, so that a busy machine slows all of them alike."""
    times = [[] for _ in functions]
    for _ in range(rounds + 1):
        for function, kept in zip(functions, times, strict=True):
            begun = time.perf_counter()
            function()
            kept.append(time.perf_counter() - begun)
    return [statistics.median(t[1:]) for t in times]


def test_dipole_against_bare_transforms(benchmark):
    operator = Dipole(SHAPE, (1, 1, 1), (0, 0, 1))
    chi, padded = torch.randn(SHAPE), torch.randn(operator.fft_shape)
    with torch.no_grad():
        benchmark.pedantic(operator, (chi,), rounds=3, warmup_rounds=1)
        dipole, pair = alternated([lambda: operator(chi), lambda: irfft3(rfft3(padded), operator.fft_shape)], 7)
    print(f"\ndipole {SHAPE} padded to {operator.fft_shape}: {dipole:.3f} s; bare FFT pair of that size: {pair:.3f} s; ratio {dipole / pair:.2f}")
    assert dipole / pair <= 1.3


@functools.cache
def head_at_low_resolution():
    recipe = Recipe(voxel_size_mm=(1.6, 1.6), peak_snr=(100.0, 100.0))
    return fit_field(render_volume(recipe, draw_volume(recipe, volume_seed("test", 0, 0), contrast="sim1"))[0])


@pytest.mark.parametrize(
    ("solver", "n_pairs", "limit"),
    [(tv, 2, 2.0), (nltv, 2, 2.5), (l1qsm, 2, 2.5), (nll1qsm, 2, 2.5), (tgv, 5, 2.5), (nltgv, 5, 2.5)],
    ids=["tv", "nltv", "l1qsm", "nll1qsm", "tgv", "nltgv"],
)
def test_an_iteration_against_its_transforms(benchmark, solver, n_pairs, limit):
    """Time per iteration over that of the bare real transform pairs it needs, on the same grid."""
    field = head_at_low_resolution()
    shape = WorkingGrid.of(field, 1.25).shape
    volume = torch.randn(shape)

    def iterate(n):
        return solver(field, n_iterations=n, tolerance=0.0)

    benchmark.pedantic(iterate, (5,), rounds=1, warmup_rounds=1)
    few, many, pairs = alternated([lambda: iterate(3), lambda: iterate(13), lambda: [irfft3(rfft3(volume), shape) for _ in range(10 * n_pairs)]], 3)
    ratio = (many - few) / pairs
    print(f"\n{solver.__name__} on {shape}: {(many - few) / 10:.3f} s per iteration; the {n_pairs} FFT pairs it needs: {pairs / 10:.3f} s")
    print(f"ratio {ratio:.2f} (at most {limit})")
    assert ratio <= limit


def test_training_waits_little_for_data(benchmark, tmp_path):
    with initialize_config_dir(version_base=None, config_dir=os.fspath(config_folder())):
        config = compose("train", overrides=["training.n_steps=120", "training.validate_every=1000000", "trainer.max_time=null"])
    callbacks = train_module.make_callbacks(config, tmp_path)
    trainer = train_module.make_trainer(config, tmp_path, callbacks.all)
    benchmark.pedantic(trainer.fit, (train_module.make_module(config), train_module.make_data(config)), rounds=1)
    wait = callbacks.wait
    print(f"\ntraining: {wait.samples_per_s:.2f} patches/s, {100 * wait.data_wait_share:.1f} % waiting, first batch after {wait.first_batch_s:.1f} s")
    assert wait.data_wait_share < 0.1
