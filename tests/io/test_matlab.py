import struct
import zlib

import numpy as np
import pytest
from scipy.io import savemat

from qsmdl.errors import InputError
from qsmdl.io import matlab
from qsmdl.io.matlab import read_matlab

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("compressed", [True, False])
def test_variables_and_the_fields_of_a_struct(tmp_path, compressed):
    values = {
        "mask": RNG.random((5, 4, 3)) > 0.5, "f8": RNG.normal(size=(3, 4)), "f4": RNG.normal(size=(2, 3)).astype(np.float32),
        "i2": np.arange(-3, 3, dtype=np.int16).reshape(2, 3), "u1": np.arange(7, dtype=np.uint8)[None], "one": np.array([[5.0]]),
    }  # fmt: skip
    path = tmp_path / "a.mat"
    fields = {"maskEroded": "Sim1/mäsk.nii", "CalcMoment": -50.4, "label": np.zeros((0, 0)), "x": values["mask"]}
    others = {"cells": np.array([1, "a"], dtype=object), "complex": np.array([1j]), "nested": {"a": {"b": 1.0}, "c": "ok"}, "lines": ["ab", "cd"]}
    savemat(path, {"filesstructure": fields, **values, **others, "text": "x" * 70, "empty": ""}, do_compression=compressed)
    found = read_matlab(path)
    for name, value in values.items():
        assert np.array_equal(found[name], value), name
    assert np.array_equal(found["x"], values["mask"])
    assert (found["maskEroded"], found["text"], found["c"], found["empty"]) == ("Sim1/mäsk.nii", "x" * 70, "ok", "")
    assert float(found["CalcMoment"].item()) == -50.4
    assert not {"cells", "complex", "a", "lines", "filesstructure"} & set(found)


def header(order="<"):
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(f"{order}H", 0x0100) + {"<": b"IM", ">": b"MI"}[order]


def test_the_other_byte_order(tmp_path):
    """A 1 x 2 double, written by hand: flags, dimensions, name (in its tag), values."""
    inside = struct.pack(">IIII", 6, 8, 6, 0) + struct.pack(">IIii", 5, 8, 1, 2) + struct.pack(">HH4s", 1, 1, b"v")
    inside += struct.pack(">IIdd", 9, 16, 1.5, -2)
    (tmp_path / "a.mat").write_bytes(header(">") + struct.pack(">II", 14, len(inside)) + inside)
    assert read_matlab(tmp_path / "a.mat")["v"].tolist() == [[1.5, -2.0]]


@pytest.mark.parametrize("compressed", [True, False])
def test_too_much_is_not_read(tmp_path, monkeypatch, compressed):
    path = tmp_path / "bomb.mat"
    savemat(path, {"x": np.zeros((100, 100, 100))}, do_compression=compressed)
    assert read_matlab(path)["x"].shape == (100, 100, 100)
    monkeypatch.setattr(matlab, "MAX_BYTES", 2**20)
    with pytest.raises(InputError, match="holds more than 1 MiB"):
        read_matlab(path)


def test_an_element_that_expands_without_end(tmp_path, monkeypatch):
    """Two compressed elements of a few kilobytes, each below the limit: their sum counts."""
    path, packed = tmp_path / "bomb.mat", zlib.compress(b"\0" * 6 * 2**17)
    path.write_bytes(header() + 2 * (struct.pack("<II", 15, len(packed)) + packed))
    assert path.stat().st_size < 10_000
    assert read_matlab(path) == {}
    monkeypatch.setattr(matlab, "MAX_BYTES", 2**20)
    with pytest.raises(InputError, match="holds more than"):
        read_matlab(path)


def test_damaged_files_are_named(tmp_path):
    whole = tmp_path / "whole.mat"
    savemat(whole, {"x": RNG.normal(size=(20, 20))}, do_compression=True)
    content = whole.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 255
    damage = {"cut": content[: len(content) // 2], "flipped": bytes(flipped), "text": b"hello", "empty": b"", "hdf": b"\x89HDF" * 200}
    for name, data in damage.items():
        path = tmp_path / f"{name}.mat"
        path.write_bytes(data)
        with pytest.raises(InputError, match=rf"{name}\.mat could not be read as a MATLAB file"):
            read_matlab(path)
    with pytest.raises(InputError, match="could not be read"):
        read_matlab(tmp_path / "nowhere.mat")


def test_random_bytes_never_crash(tmp_path):
    """Whatever follows a valid header: plain values, or an InputError that names the file. (scipy's reader ends the process on some of these.)"""
    rng, whole, path = np.random.default_rng(1), tmp_path / "whole.mat", tmp_path / "fuzz.mat"
    savemat(whole, {"s": {"maskEroded": "a.nii", "n": 3.0, "m": np.ones((2, 3), np.uint8)}, "x": np.ones((2, 2))})
    content, n_refused = whole.read_bytes(), 0
    for _ in range(400):
        damaged = bytearray(content)
        for index in rng.integers(124, len(content), 3):
            damaged[index] = int(rng.integers(256))
        path.write_bytes(damaged)
        try:
            found = read_matlab(path)
        except InputError:
            n_refused += 1
        else:
            assert all(isinstance(value, str | np.ndarray) for value in found.values())
    assert 40 < n_refused < 400
