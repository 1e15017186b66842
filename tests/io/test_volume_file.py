"""Files of simulated volumes: what is read is bit by bit what was rendered, or nothing."""

import dataclasses
import json
import resource
import shutil
import struct
from collections import namedtuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from qsmdl.data.engine import KINDS
from qsmdl.data.recipe import Recipe, draw_volume, render_volume
from qsmdl.errors import InputError
from qsmdl.io import volume_file
from qsmdl.io.volume_file import check_free_space, expected_bytes, read_card, read_volume_file, write_volume_file

EFFECTS = {name: {"probability": 1.0} for name in ("offset", "flow", "dropouts", "slab", "erosion", "holes")}
PROTOCOL = {"voxel_size_mm": [4.0, 6.0], "tilt_probability": 1.0, "anisotropy_probability": 1.0, "anisotropy": [1.2, 1.5], "longest_edge_mm": 12.0}


def rendered(kind="head", seed=4):
    recipe = Recipe(engine={"kinds": {kind: 1.0}, "protocol": PROTOCOL, "effects": EFFECTS})
    return render_volume(recipe, draw_volume(recipe, seed, name=f"a {kind}"), complete=False)


@pytest.fixture(scope="module")
def volume():
    return rendered("shapes")


@pytest.fixture
def path(volume, tmp_path):
    write_volume_file(tmp_path / "volume_00000.safetensors", *volume, {"number": 0, "volume": {"seed": [1, 2.5]}})
    return tmp_path / "volume_00000.safetensors"


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.contiguous().numpy().tobytes() == b.contiguous().numpy().tobytes()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "label_map"])
def test_a_volume_comes_back_bit_by_bit(kind, tmp_path):
    scan, truth = rendered(kind)
    size = write_volume_file(tmp_path / "volume.safetensors", scan, truth, {"number": 7})
    found = read_volume_file(tmp_path / "volume.safetensors")
    for name in ("magnitude", "phase_rad", "mask"):
        assert same_bits(getattr(found.scan, name), getattr(scan, name)), name
    for name in ("chi_ppm", "labels", "mask"):
        assert same_bits(getattr(found.truth, name), getattr(truth, name)), name
    for before, after in ((scan, found.scan), (truth, found.truth)):
        told = [dataclasses.asdict(v.geometry) for v in (before, after)]
        assert told[0] == told[1]
    assert (found.scan.echo_times_s, found.scan.name, found.scan.frequency_ppm) == (scan.echo_times_s, scan.name, None)
    assert found.truth.mask_source == truth.mask_source
    assert found.card["number"] == 7
    whole = scan.magnitude.numel() * 8
    assert size < 0.75 * whole  # the air around is not written


def test_the_same_volume_makes_the_same_file(volume, path, tmp_path):
    write_volume_file(tmp_path / "again.safetensors", *volume, {"volume": {"seed": [1, 2.5]}, "number": 0})
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_the_card_can_be_read_alone(path):
    card = read_card(path)
    assert card == read_volume_file(path).card
    assert card["volume"] == {"seed": [1, 2.5]}


def test_another_file_than_expected_is_refused(path):
    sha256 = read_volume_file(path).sha256
    assert read_volume_file(path, sha256=sha256).sha256 == sha256
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(InputError, match=r"volume_00000\.safetensors was changed since it was fingerprinted"):
        read_volume_file(path, sha256=sha256)


def with_card(path, change):
    """The file with another card, its tensors as they are."""
    tensors, card = load_file(path), read_card(path)
    change(card)
    save_file(tensors, path, metadata={volume_file.CARD_KEY: json.dumps(card)})


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "cut in the header": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "cut in the values": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "longer than it says": lambda path: path.write_bytes(path.read_bytes() + b"\0" * 8),
    "a header of 2^60 bytes": lambda path: path.write_bytes(struct.pack("<Q", 2**60) + path.read_bytes()[8:]),
    "a pickle": lambda path: torch.save({"mask": torch.zeros(3)}, path),
    "no card": lambda path: save_file(load_file(path), path),
    "another format": lambda path: with_card(path, lambda card: card.update(format=99)),
}
WRONG = {
    "one value changed": lambda path: path.write_bytes(path.read_bytes()[:-5] + bytes([path.read_bytes()[-5] ^ 64]) + path.read_bytes()[-4:]),
    "a grid that it does not hold": lambda path: with_card(path, lambda card: card["geometry"].update(shape=[50000, 50000, 50000])),
    "echoes that it does not hold": lambda path: with_card(path, lambda card: card.update(echo_times_s=[0.001 * i for i in range(1, 9)])),
    "no geometry": lambda path: with_card(path, lambda card: card.pop("geometry")),
}


@pytest.mark.parametrize("damage", [*DAMAGE, *WRONG])
def test_damaged_files_are_named(path, damage):
    (DAMAGE | WRONG)[damage](path)
    with pytest.raises(InputError, match=r"volume_00000\.safetensors could not be read as a simulated volume"):
        read_volume_file(path)
    if damage in DAMAGE:  # what the header alone tells
        with pytest.raises(InputError, match=r"volume_00000\.safetensors could not be read as a simulated volume"):
            read_card(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_volume_file(tmp_path / "volume_00001.safetensors")


def test_what_a_file_has_no_place_for_is_refused(volume, tmp_path):
    scan, truth = volume
    path = tmp_path / "volume.safetensors"
    with pytest.raises(InputError, match="frequency map"):
        write_volume_file(path, dataclasses.replace(scan, frequency_ppm=torch.zeros(scan.geometry.shape)), truth, {})
    with pytest.raises(InputError, match="does not end at its mask"):
        write_volume_file(path, scan, dataclasses.replace(truth, chi_ppm=truth.chi_ppm + 1), {})
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_half_way_leaves_nothing(volume, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # the operating system refuses what exceeds this
    try:
        with pytest.raises(InputError, match="could not be written"):
            write_volume_file(tmp_path / "volume.safetensors", *volume, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_a_volume_is_not_begun_without_room(volume, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(2**40, 2**40, volume_file.SPARE_BYTES + 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(InputError, match=r"volume\.safetensors need about .* must stay free"):
        write_volume_file(tmp_path / "volume.safetensors", *volume, {})
    assert not list(tmp_path.iterdir())
    check_free_space(tmp_path / "not" / "there", 1000, "They")


def test_the_expected_size_is_about_right(tmp_path):
    scan, truth = rendered("head")
    size = write_volume_file(tmp_path / "volume.safetensors", scan, truth, {})
    assert 0.4 * size < expected_bytes(scan.geometry.shape, len(scan.echo_times_s)) < 2.5 * size
