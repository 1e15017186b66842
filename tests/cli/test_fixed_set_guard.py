"""A fixed set is no way for a truth into training: every attack below ends before, or at, the volume that was tampered with."""

import dataclasses
import itertools
import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_sets import HEADS, config_of, doctor, fill

from qsmdl.challenge.evaluation_data import register_truth
from qsmdl.challenge.guard import check_record
from qsmdl.cli import train as train_module
from qsmdl.cli.build import plain
from qsmdl.cli.cache import rendering_problem
from qsmdl.cli.records import Earlier, Guard, begin_record
from qsmdl.cli.train import make_data
from qsmdl.errors import InputError
from qsmdl.io.evaluation import write_mark
from qsmdl.io.fixed_set import volume_path
from qsmdl.io.rc2 import write_release
from qsmdl.io.volume_file import CARD_KEY, read_card, read_volume_file
from qsmdl.io.weights import load_weights


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """Two of the first generator's heads on the grid of `sample`, the truth that is smuggled."""
    return fill(tmp_path_factory.mktemp("sets") / "heads", 2, HEADS)


@pytest.fixture
def mine(heads, tmp_path):
    return shutil.copytree(heads, tmp_path / "set")


@pytest.fixture
def one(mine):
    """A set of one volume, for comparisons that take a second each."""
    volume_path(mine, 1).unlink()
    return mine


@pytest.fixture
def release(tmp_path, sample):
    write_release(tmp_path / "release" / "Sim2", *sample)
    return tmp_path / "release"


@pytest.fixture
def register(tmp_path, monkeypatch):
    """A register of its own."""
    monkeypatch.setenv("QSMDL_EVALUATION_DATA", str(tmp_path / "register"))


def begin(folder, *more):
    """What train.py does before its first step: (data, record after three steps)."""
    config = config_of(HEADS, f"data.cache.folder={folder}", *more)
    data = make_data(config)
    return data, begin_record(Guard.of(config), data, plain(config.network), Earlier())(3)


def smuggle(folder, number, chi_ppm):
    """Another map under a volume's mask, inside it, as a clever cheat would."""
    mask = read_volume_file(volume_path(folder, number)).truth.mask
    doctor(folder, number, chi_ppm=chi_ppm[mask].contiguous())


@pytest.mark.usefixtures("fast_heads")
def test_the_record_tells_of_the_set(mine):
    data, record = begin(mine, "guard.n_previews=1")
    generator, _, folder = record["sources"]
    assert generator["fixed_set"] == {"digest": data.cache.digest, "n_volumes": 2}
    assert (generator["kind"], generator["n_volumes"], generator["recipe_digest"]) == ("generator", 1, data.recipe.digest)
    assert (folder["kind"], folder["use"], folder["folder"]) == ("folder", "training", "set")
    assert [volume["name"] for volume in folder["volumes"]] == ["volume_00000.safetensors", "volume_00001.safetensors"]
    assert [volume["sha256"] for volume in folder["volumes"]] == [read_volume_file(volume_path(mine, i)).sha256 for i in range(2)]
    assert {volume["content"] for volume in folder["volumes"]} == set(record["volumes"])
    assert data.sources(10**6)[0]["n_volumes"] == 2  # there are no more


@pytest.mark.usefixtures("fast_heads")
@pytest.mark.filterwarnings(
    "ignore::UserWarning:lightning", "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:.*does not have many workers"
)
def test_weights_trained_on_a_set_are_attested_and_tell_it(heads, tmp_path):
    tensors, card = load_weights(train_module.fit(config_of(HEADS, f"data.cache.folder={heads}"), tmp_path))
    attestation = check_record(card, tensors)
    assert attestation.clean
    assert "names 2 volumes" in attestation.reason
    assert card["record"]["sources"][0]["fixed_set"]["n_volumes"] == 2
    assert card["recipe_digest"] == read_card(volume_path(heads, 0))["recipe_digest"]


def test_a_truth_in_a_volume_is_found(one, release, sample):
    smuggle(one, 0, -3 * sample[1].chi_ppm.flip(0))
    with pytest.raises(InputError, match=r"volume_00000\.safetensors .*(shows the content|has the outline) of"):
        begin(one, f"guard.releases=[{release}]", "guard.n_previews=0")


@pytest.mark.usefixtures("register")
def test_registered_evaluation_data_are_found_without_a_release(one, sample):
    register_truth("Sim2", sample[1], source="a test")
    smuggle(one, 0, sample[1].chi_ppm)
    with pytest.raises(InputError, match=r"volume_00000\.safetensors .* Sim2 \(evaluation data number 1\)"):
        begin(one, "guard.n_previews=0")


@pytest.mark.usefixtures("fast_heads")
def test_a_volume_with_another_heads_map_is_not_what_its_recipe_makes(mine):
    smuggle(mine, 1, read_volume_file(volume_path(mine, 0)).truth.chi_ppm)
    with pytest.raises(InputError, match=r"volume_00001\.safetensors of the set set differs in its susceptibility \(by .* nobody knows where"):
        begin(mine, "guard.n_previews=2")


def test_volumes_are_their_renderings_up_to_rounding(sample):
    """By what a volume may be told from its rendering on another machine, and by what it must."""
    scan, truth = sample
    rounded = dataclasses.replace(scan, phase_rad=scan.phase_rad + 1e-5), dataclasses.replace(truth, chi_ppm=truth.chi_ppm * (1 + 1e-5))
    turned = dataclasses.replace(scan, phase_rad=torch.remainder(scan.phase_rad + 1e-5 + torch.pi, 2 * torch.pi) - torch.pi)
    assert [rendering_problem(found, sample) for found in (sample, rounded, (turned, truth))] == [None] * 3
    smaller = scan.mask.clone()
    smaller[: smaller.shape[0] // 2] = False
    for other, what in (
        ({"phase_rad": 0.99 * scan.phase_rad}, "echoes"),
        ({"magnitude": 1.01 * scan.magnitude}, r"echoes \(by 1 %\)"),
        ({"mask": smaller}, "mask"),
        ({"echo_times_s": tuple(1.01 * t for t in scan.echo_times_s)}, "echo times"),
        ({"geometry": dataclasses.replace(scan.geometry, b0_tesla=3.0)}, "field strength"),
    ):
        assert re.search(what, rendering_problem((dataclasses.replace(scan, **other), truth), sample))
    assert "susceptibility (by 1 %)" in rendering_problem((scan, dataclasses.replace(truth, chi_ppm=1.01 * truth.chi_ppm)), sample)


def test_a_volume_replaced_after_the_fingerprinting_is_not_read(mine, sample):
    data, _ = begin(mine, "guard.n_previews=0")
    batches = iter(data.train_dataloader())
    first = next(batches)
    assert float(first["chi_ppm"].abs().max()) > 0
    smuggle(mine, 1, sample[1].chi_ppm)
    with pytest.raises(InputError, match=r"volume_00001\.safetensors was changed since it was fingerprinted"):
        list(itertools.islice(batches, data.batches_per_volume))


def test_a_volume_exchanged_by_a_link_is_not_read(mine, tmp_path, sample):
    """First a link to an honest volume, then to another file."""
    path, honest, doctored = volume_path(mine, 0), tmp_path / "honest.safetensors", tmp_path / "doctored.safetensors"
    smuggle(mine, 0, sample[1].chi_ppm)
    path.rename(doctored)
    shutil.copy(volume_path(mine, 1), honest)
    fill(mine, 1, HEADS)
    path.rename(honest)
    path.symlink_to(honest)
    data, _ = begin(mine, "guard.n_previews=0")
    path.unlink()
    path.symlink_to(doctored)
    with pytest.raises(InputError, match="was changed since it was fingerprinted"):
        next(iter(data.train_dataloader()))


def test_the_folder_exchanged_by_a_link_is_not_read(mine, tmp_path, sample):
    link = tmp_path / "link"
    link.symlink_to(mine)
    data, _ = begin(link, "guard.n_previews=0")
    doctored = shutil.copytree(mine, tmp_path / "doctored")
    smuggle(doctored, 0, sample[1].chi_ppm)
    link.unlink()
    link.symlink_to(doctored)
    assert torch.equal(data.cache.read(0)[1].chi_ppm, read_volume_file(volume_path(mine, 0)).truth.chi_ppm)


def test_volumes_added_later_are_not_read(mine, sample):
    data, record = begin(mine, "guard.n_previews=0")
    shutil.copy(volume_path(mine, 0), volume_path(mine, 2))
    smuggle(mine, 2, sample[1].chi_ppm)
    dataset = data.train_dataloader().dataset
    assert torch.equal(dataset._volume(2)[0]["chi_ppm"], dataset._volume(0)[0]["chi_ppm"])
    assert [volume["name"] for volume in record["sources"][-1]["volumes"]] == ["volume_00000.safetensors", "volume_00001.safetensors"]
    # Nor is it taken for a part of the set by the next training.
    with pytest.raises(InputError, match=r"volume_00002\.safetensors was not drawn as volume number 2"):
        begin(mine)


def test_volumes_in_hidden_files_and_other_names_are_not_read(mine, sample):
    for name in (".volume_00002.safetensors", "volume_000002.safetensors", "volume_2.safetensors", "volume_00002.safetensors.bak"):
        shutil.copy(volume_path(mine, 0), mine / name)
    data, _ = begin(mine, "guard.n_previews=0")
    assert data.cache.n_volumes == 2


def test_a_set_marked_as_evaluation_data_is_refused(mine):
    write_mark(mine, "a test")
    with pytest.raises(InputError, match="evaluation"):
        begin(mine)


def test_a_wrong_voxel_size_does_not_hide_a_volume(mine):
    path = volume_path(mine, 0)
    card = read_card(path)
    card["geometry"]["voxel_size_mm"] = [9.0, 9.0, 9.0]
    save_file(load_file(path), path, metadata={CARD_KEY: json.dumps(card)})
    with pytest.raises(InputError, match=r"volume_00000\.safetensors was not drawn as volume number 0"):
        begin(mine)
