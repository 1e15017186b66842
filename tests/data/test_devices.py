"""Samples rendered, scanned and cut on another device than the CPU: nothing mixes devices."""

import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from other_device import OTHER, MixedDevicesError, OtherTensor, other_device

from qsmdl.data.datamodule import PhantomData
from qsmdl.data.engine import Engine
from qsmdl.data.inputs import Prior
from qsmdl.data.recipe import Recipe, draw_volume, render_phantom, render_volume
from qsmdl.data.stream import PhantomStream
from qsmdl.errors import InputError
from qsmdl.io.label_table import BUILT_IN
from qsmdl.phantom.anatomy.label_atlas import LabelAtlas
from qsmdl.phantom.drawing.sampling import Lattice

EVERY_EFFECT = {
    "kinds": {"head": 1},
    "sign_flip": 0.0,
    "veins": {"probability": 1.0},
    "blood": {"probability": 1.0},
    "vessels": {"probability": 1.0, "count": [2, 2], "generations": [1, 2]},
    "lesions": {
        "calcification": {"probability": 1.0},
        "haemorrhage": {"probability": 1.0, "radius_mm": [3.0, 6.0]},
        "microbleed": {"probability": 1.0},
        "iron": {"probability": 1.0},
    },
    "added_texture": {"probability": 1.0},
    "protocol": {
        "b0_choices_tesla": [3.0],
        "relaxation_follows_field": True,
        "n_echoes": [3, 3],
        "last_echo_s": [0.02, 0.03],
        "voxel_size_mm": [3.0, 3.0],
        "anisotropy_probability": 1.0,
        "anisotropy": [1.1, 1.3],
        "tilt_probability": 1.0,
    },
    "effects": {
        name: {"probability": 1.0} for name in ("offset", "background", "flow", "dropouts", "slab", "wraps", "erosion", "holes", "low_signal")
    },
}
KINDS = ("head", "shapes", "texture", "label_map")


def recipe(kind, truth="unrung"):
    if kind == "first generator":
        return Recipe(voxel_size_mm=(6.0, 6.0), truth=truth)
    fov = (164.0, 205.0, 205.0) if kind == "head" else (60.0, 63.0, 66.0)
    engine = Engine.from_settings({**EVERY_EFFECT, "kinds": {kind: 1}, "max_voxels": 20_000})
    return Recipe(engine=engine, field_of_view_mm=fov, truth=truth, oversampling=1.3)


def atlas():
    labels = torch.zeros(14, 13, 12, dtype=torch.int32)
    labels[2:12, 2:11, 2:10] = 2
    labels[5:8, 5:8, 5:8] = 12
    return LabelAtlas(labels, (3.5, 3.5, 3.5), BUILT_IN["freesurfer"], "box")


def stream(kind, **changes):
    values = {"patch_size": (12, 9, 10), "batch_size": 1, "batches_per_volume": 2, "n_lanes": 1, "seed": 2, "p_drop_weight": 0.5}
    return PhantomStream(recipe(kind), Prior((0.05,), magnitude=True), **(values | {"atlases": (atlas(),)} | changes))


@pytest.fixture
def coarse_lattices(monkeypatch):
    """Heads on lattices that hold hardly any detail, which are made in a tenth of the time."""
    for module in ("cerebellum", "cortex", "envelope", "head", "nuclei", "skull", "veins"):
        monkeypatch.setattr(f"qsmdl.phantom.anatomy.{module}.LATTICE", Lattice.of(6.0))
    monkeypatch.setattr("qsmdl.phantom.anatomy.texture._FINE", Lattice.of(5.0))


@pytest.mark.parametrize("kind", ["first generator", *KINDS])
@pytest.mark.usefixtures("coarse_lattices")
def test_a_sample_stays_on_its_device(kind):
    """From the draw to the patch, with every effect; what is computed is what the CPU computes."""
    source = stream(kind)
    expected = source.batch(0)
    with other_device() as operations, torch.device(OTHER):
        found = source.batch(0)
    for name, value in found.items():
        assert isinstance(value, OtherTensor), name
        assert torch.equal(value.inner, expected[name]), name
    assert torch.ops.aten.randn.generator in operations


def test_whole_scans_stay_on_their_device():
    """What training leaves out: the frequency map and labels by majority, and the other conventions of the truth."""
    for truth in ("crop", "cell"):
        own = recipe("texture", truth)
        params = draw_volume(own, 3)
        expected, wanted = render_volume(own, params)
        with other_device(), torch.device(OTHER):
            scan, found = render_volume(own, params)
        assert torch.equal(scan.frequency_ppm.inner, expected.frequency_ppm)
        assert torch.equal(found.labels.inner, wanted.labels)
        assert torch.equal(found.chi_ppm.inner, wanted.chi_ppm)


def test_the_other_device_refuses_what_a_gpu_refuses():
    with other_device(), torch.device(OTHER):
        there, here = torch.ones(2, 3), torch.ones(3, device="cpu")
        for mixed in (
            lambda: there + here,
            lambda: there.mul_(here),
            lambda: torch.cat((there[0], here)),
            lambda: there[torch.tensor([0], device="cpu")],
            there.numpy,
            lambda: np.asarray(there),
            lambda: torch.randn(2, generator=torch.Generator()),
            lambda: torch.randn(2, generator=torch.Generator(OTHER), device="cpu"),
        ):
            with pytest.raises(MixedDevicesError):
                mixed()
        there[0] = here
        assert (there + torch.ones((), device="cpu")).tolist() == [[2.0] * 3] * 2
        assert there.cpu().numpy().sum() == 6


def take(source, n):
    return [batch for batch, _ in zip(source, range(n), strict=False)]


def alike(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("changes", [{}, {"start_batch": 5}, {"n_lanes": 2, "rank": 1, "world_size": 2, "start_batch": 3, "batch_size": 2}])
def test_rendering_ahead_changes_no_bit(changes):
    expected = take(stream("texture", **changes), 7)
    found = take(stream("texture", render_on=torch.device("cpu"), **changes), 7)
    assert all(alike(a, b) for a, b in zip(found, expected, strict=True))


def test_one_volume_is_rendered_ahead_and_the_thread_ends_with_the_stream(monkeypatch):
    started, source = [], stream("texture", render_on=torch.device("cpu"))
    made = source._made
    monkeypatch.setattr(source, "_made", lambda index: (started.append(index), made(index))[1])
    batches = iter(source)
    next(batches)
    (thread,) = (t for t in threading.enumerate() if t.name == "volumes ahead")
    for _ in range(200):
        if started == [0, 1]:
            break
        time.sleep(0.05)
    time.sleep(0.2)
    assert started == [0, 1]
    batches.close()
    assert not thread.is_alive()


def test_a_stream_that_is_closed_waits_for_no_volume(monkeypatch):
    source = stream("texture", render_on=torch.device("cpu"))
    entered = threading.Event()

    def endless(index):
        entered.set()
        while True:
            torch.zeros(2)

    made = source._made
    monkeypatch.setattr(source, "_made", lambda index: endless(index) if index else made(index))
    batches = iter(source)
    next(batches)
    assert entered.wait(10)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name == "volumes ahead"]


def test_errors_of_the_thread_reach_who_asks():
    hopeless = stream("label_map", render_on=torch.device("cpu"), atlases=())
    with pytest.raises(InputError, match="label map"):
        next(iter(hopeless))


def test_an_interpreter_that_ends_amid_a_volume_does_not_hang():
    code = (
        "import sys; sys.path += ['tests', 'tests/data']\n"
        "import torch, test_devices\n"
        "batches = iter(test_devices.stream('texture', render_on=torch.device('cpu')))\n"
        "next(batches)\n"
        "raise KeyboardInterrupt\n"
    )
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, cwd=root, check=False)
    assert ended.stderr.splitlines()[-1] == "KeyboardInterrupt", ended.stderr


def test_refused_places_to_render():
    heads = Recipe()
    with pytest.raises(InputError, match=r"data\.render_on is 'cpu', but data\.n_workers is 1"):
        PhantomData(heads, heads, Prior(), render_on="cpu", n_workers=1)
    for name in ("tpu", "cuda:x", "cpu:1"):
        with pytest.raises(InputError, match="null, cpu, cuda"):
            PhantomData(heads, heads, Prior(), render_on=name, n_workers=0)
    with pytest.raises(InputError, match="GPUs were found"):
        PhantomData(heads, heads, Prior(), render_on="cuda:99", n_workers=0)
    data = PhantomData(recipe("texture"), heads, Prior((0.05,)), patch_size=(8, 8, 8), render_on="cpu", n_workers=0)
    assert data.train_dataloader().dataset.render_on == torch.device("cpu")


def test_each_process_renders_on_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)

    def place(name, trains_on, n_processes=3):
        data = PhantomData(recipe("texture"), Recipe(), Prior((0.05,)), render_on=name, n_workers=0)
        strategy = SimpleNamespace(root_device=torch.device(trains_on))
        rank = n_processes - 1
        data.trainer = SimpleNamespace(world_size=n_processes, global_rank=rank, local_rank=rank, global_step=0, strategy=strategy)
        return data.train_dataloader().dataset.render_on

    assert place("cuda", "cuda:3") == torch.device("cuda:3")
    assert place("cuda", "cpu") == torch.device("cuda:2")
    assert place("cuda:1", "cuda:0", n_processes=1) == torch.device("cuda:1")
    assert place("cpu", "cuda:0") == torch.device("cpu")
    with pytest.raises(InputError, match="but 3 processes train"):
        place("cuda:1", "cuda:0")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["first generator", *KINDS])
def test_a_gpu_renders_what_the_cpu_renders(kind):
    """The anatomy but for rounding, the same bits each time; the noise is another one, so the fields agree within it."""
    own = recipe(kind, "crop")
    params = draw_volume(own, 3, atlases=(atlas(),))
    phantom, (scan, _) = render_phantom(own, params, (atlas(),)), render_volume(own, params, (atlas(),))
    with torch.device("cuda", 0):
        there, (seen, truth) = render_phantom(own, params, (atlas(),)), render_volume(own, params, (atlas(),))
        again = render_volume(own, params, (atlas(),))
    assert seen.magnitude.device.type == truth.chi_ppm.device.type == "cuda"
    assert torch.equal(seen.phase_rad, again[0].phase_rad)
    difference = there.chi_ppm.cpu() - phantom.chi_ppm
    assert float(difference.norm()) < 0.01 * float(phantom.chi_ppm.norm())
    assert float((seen.mask.cpu() != scan.mask).float().mean()) < 0.01
    assert float((seen.magnitude.cpu() - scan.magnitude).norm()) < 0.1 * float(scan.magnitude.norm())
