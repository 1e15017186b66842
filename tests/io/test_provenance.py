import copy

import numpy as np
import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.io.nifti import write_volume
from qsmdl.io.provenance import canonical_json, folder_source, links_of, make_record, seal, seal_problem, tensors_digest, volumes_of

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3, dtype=torch.int64), "none": torch.zeros(0)}
SOURCE = {"kind": "generator", "use": "training", "stream": "train", "seed": 0}


def sealed(**more):
    return seal(make_record([SOURCE], architecture="abc", n_steps=5, **more), TENSORS)


def test_tensors_have_one_digest():
    reordered = dict(reversed(TENSORS.items()))
    reordered["a"] = reordered["a"].T.contiguous().T  # another layout in memory
    assert tensors_digest(reordered) == tensors_digest(TENSORS)
    for changed in (
        {**TENSORS, "a": TENSORS["a"] + 1e-6},
        {**TENSORS, "a": TENSORS["a"].reshape(3, 2)},
        {**TENSORS, "b": torch.tensor(3, dtype=torch.int32)},
        {"c" if n == "a" else n: t for n, t in TENSORS.items()},
        {n: t for n, t in TENSORS.items() if n != "none"},
    ):
        assert tensors_digest(changed) != tensors_digest(TENSORS)


def test_a_sealed_record_holds():
    assert seal_problem(sealed(), TENSORS) is None
    assert seal(sealed(), TENSORS) == sealed()


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "xyz"},
        {"n_steps": 6},
        {"sources": []},
        {"made_by": "declaration"},
        {"extra": 1},
        {"volumes": {"f00": {}}},
        {"earlier": [{}]},
        {"volumes_digest": "0"},
        {"seal": "0"},
    ],
)
def test_a_changed_record_is_noticed(change):
    assert "changed after it was sealed" in seal_problem(sealed() | change, TENSORS)


def test_exchanged_weights_are_noticed():
    assert "weights are not those" in seal_problem(sealed(), {**TENSORS, "a": TENSORS["a"] * 2})


@pytest.mark.parametrize("record", [None, [], "text", {}, {"volumes": {}, "earlier": []}, {"volumes": [], "earlier": {}}])
def test_what_is_no_record_is_told(record):
    assert seal_problem(record, TENSORS) is not None


def test_a_missing_part_is_noticed():
    for key in sealed():
        assert seal_problem({k: v for k, v in sealed().items() if k != key}, TENSORS) is not None


def test_records_form_a_chain():
    first = sealed()
    second = sealed(earlier=first)
    third = sealed(earlier=second)
    assert seal_problem(third, TENSORS) is None
    assert [link["seal"] for link in links_of(third)] == [first["seal"], second["seal"], third["seal"]]


def test_a_broken_chain_is_noticed():
    third = sealed(earlier=sealed(earlier=sealed()))
    shortened = seal(third | {"earlier": third["earlier"][1:]}, TENSORS)
    assert "gaps" in seal_problem(shortened, TENSORS)
    edited = copy.deepcopy(third)
    edited["earlier"][0]["sources"] = []
    assert "changed" in seal_problem(seal(edited, TENSORS), TENSORS)


@pytest.fixture
def folder(tmp_path):
    values = np.zeros((20, 22, 24), np.float32)
    for i in range(2):
        values[3:17, 3:19, 3:21] = np.random.default_rng(i).normal(size=(14, 16, 18))
        write_volume(tmp_path / "mine" / f"{i}.nii.gz", values, voxel_size_mm=(3.0, 3.0, 3.0))
    return tmp_path / "mine"


def test_volumes_are_kept_once_for_the_whole_chain(folder):
    source, found = folder_source(folder)
    first = seal(make_record([source], architecture="abc", fingerprints=found), TENSORS)
    second = seal(make_record([source], architecture="abc", fingerprints=found, earlier=first), TENSORS)
    third = sealed(earlier=second)
    assert seal_problem(third, TENSORS) is None
    assert [v.name for v in volumes_of(third)] == ["mine/0.nii.gz", "mine/1.nii.gz"]
    assert len(canonical_json(second)) < 1.2 * len(canonical_json(first))
    np.testing.assert_array_equal(volumes_of(third)[0].signature.support, found[0].signature.support)


def test_a_volume_without_signature_is_named(folder):
    source, _ = folder_source(folder)
    with pytest.raises(InputError, match=r"mine/0\.nii\.gz, but holds no signature"):
        volumes_of(seal(make_record([source], architecture="abc"), TENSORS))


def test_only_plain_content_is_recorded():
    assert canonical_json({"b": 1, "a": [1.5, None]}) == '{"a":[1.5,null],"b":1}'
    for bad in (float("nan"), {1, 2}, torch.ones(1)):
        with pytest.raises(InputError, match="JSON"):
            canonical_json({"a": bad})
