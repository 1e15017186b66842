import pickle

import pytest
import torch
from safetensors.torch import save_file

from qsmdl.errors import InputError
from qsmdl.io.weights import halved, load_weights, save_weights

CARD = {"units": "ppm", "scale": 0.1, "seed": 3, "envelope": {"voxel_mm": [0.6, 1.5]}, "note": "µ"}


@pytest.fixture
def tensors():
    weight = torch.randn(3, 2, 1, 1, 1)
    return {"a.weight": weight, "a.same": weight, "a.view": weight.transpose(0, 1), "steps": torch.tensor(7)}


def test_tensors_and_card_come_back(tmp_path, tensors):
    path = tmp_path / "unet.safetensors"
    save_weights(path, tensors, CARD)
    found, card = load_weights(path)
    assert card == CARD
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert [p.name for p in tmp_path.iterdir()] == ["unet.safetensors"]


def test_existing_weights_are_kept_unless_asked(tmp_path, tensors):
    path = tmp_path / "unet.safetensors"
    save_weights(path, tensors, CARD)
    with pytest.raises(InputError, match="--overwrite"):
        save_weights(path, tensors, CARD)
    save_weights(path, tensors, {}, overwrite=True)
    assert load_weights(path)[1] == {}


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.ckpt", "net.PKL", "net.bin"])
def test_pickles_are_refused_by_name(tmp_path, tensors, name):
    torch.save(tensors, tmp_path / name)
    with pytest.raises(InputError, match=r"pickles can run code and are never loaded.*save_weights"):
        load_weights(tmp_path / name)
    with pytest.raises(InputError, match=r"never loaded"):
        save_weights(tmp_path / name, tensors, CARD, overwrite=True)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_are_refused_by_content(tmp_path, tensors, zipped):
    path = tmp_path / "renamed.safetensors"
    if zipped:
        torch.save(tensors, path)
    else:
        path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(InputError, match="is a pickle under the name of a safetensors file"):
        load_weights(path)


@pytest.mark.parametrize("kept", [0, 3, 60, 0.5, 0.99])
def test_truncated_weights_are_named(tmp_path, tensors, kept):
    path = tmp_path / "unet.safetensors"
    save_weights(path, tensors, CARD)
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(InputError, match=r"unet\.safetensors could not be read as safetensors .*truncated"):
        load_weights(path)


def test_missing_file_and_unknown_suffix(tmp_path):
    with pytest.raises(InputError, match=r"missing\.safetensors could not be read"):
        load_weights(tmp_path / "missing.safetensors")
    with pytest.raises(InputError, match=r"net\.h5 does not end in \.safetensors"):
        load_weights(tmp_path / "net.h5")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"qsmdl_card": "{"}, {"qsmdl_card": "[1]"}])
def test_weights_without_a_proper_card_are_refused(tmp_path, metadata):
    path = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(2)}, path, metadata=metadata)
    with pytest.raises(InputError, match=r"foreign\.safetensors.*card|card in .*foreign\.safetensors"):
        load_weights(path)


def test_values_that_no_network_can_use_are_refused_both_ways(tmp_path):
    bad = {"a": torch.tensor([1.0, float("nan")])}
    with pytest.raises(InputError, match=r"tensor a .* NaN"):
        save_weights(tmp_path / "bad.safetensors", bad, CARD)
    save_file(bad, tmp_path / "bad.safetensors", metadata={"qsmdl_card": "{}"})
    with pytest.raises(InputError, match=r"tensor a .* NaN"):
        load_weights(tmp_path / "bad.safetensors")


def test_card_and_tensors_are_checked_before_writing(tmp_path, tensors):
    for card in ({"x": object()}, {"x": float("inf")}):
        with pytest.raises(InputError, match=r"card for .*unet\.safetensors cannot be written as JSON"):
            save_weights(tmp_path / "unet.safetensors", tensors, card)
    with pytest.raises(InputError, match="no tensors"):
        save_weights(tmp_path / "unet.safetensors", {}, CARD)
    assert list(tmp_path.iterdir()) == []


def test_others_may_read_weights(tmp_path):
    save_weights(tmp_path / "w.safetensors", {"a": torch.ones(1)}, {})
    assert (tmp_path / "w.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_header_length_that_looks_like_a_pickle_is_read(tmp_path):
    """The file begins with the length of its header, whose first byte is the pickle's for one length in 256."""
    for n in range(600):
        path = tmp_path / f"{n}.safetensors"
        save_weights(path, {"a": torch.ones(1)}, {"text": "x" * n})
        if path.read_bytes()[:1] == b"\x80":
            assert load_weights(path)[1] == {"text": "x" * n}
            return
    raise AssertionError("no such header was made")


def test_weights_in_16_bits_are_near_and_those_too_large_are_refused(tmp_path):
    tensors = {"kernel": torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0)), "bias": torch.randn(4), "count": torch.tensor(7)}
    found = halved(tensors)
    assert {name: tensor.dtype for name, tensor in found.items()} == {"kernel": torch.float16, "bias": torch.float32, "count": torch.int64}
    torch.testing.assert_close(found["kernel"].float(), tensors["kernel"], rtol=1e-3, atol=1e-7)
    with pytest.raises(InputError, match=r"largest weight of kernel is 7e\+04, which 16 bits cannot hold"):
        halved({"kernel": torch.full((2, 2), 7e4)})
