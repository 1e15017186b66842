"""Who may enter the deep-learning track, and what stops a training or an evaluation."""

import copy
import dataclasses
import functools
import json

import numpy as np
import pytest
import torch
from scipy import ndimage

from qsmdl.about import About
from qsmdl.challenge.guard import admit, check_record, check_truths, find_hits, read_truths
from qsmdl.data.datamodule import PhantomData
from qsmdl.data.inputs import Prior
from qsmdl.data.recipe import Recipe, draw_volume, volume_seed
from qsmdl.data.sources import generator_source, n_volumes_drawn, recipe_digest
from qsmdl.data.stream import PhantomStream
from qsmdl.errors import InputError
from qsmdl.io.fingerprint import Fingerprint, Signature, fingerprint_folder
from qsmdl.io.nifti import write_volume
from qsmdl.io.provenance import folder_source, make_record, seal
from qsmdl.io.rc2 import write_release
from qsmdl.io.weights import save_weights
from qsmdl.methods import SHIPPED_WEIGHTS, Method, unet
from qsmdl.networks.build import architecture_fingerprint, build_network
from qsmdl.solvers.direct import tkd

SETTINGS = {"architecture": "unet", "keywords": {"width": 2, "depth": 1}}
PRIOR = {"regularisations": [0.012, 0.003, 0.05]}
GENERATED = generator_source(Recipe(), stream="train", seed=0, n_volumes=3)


@functools.cache
def tensors():
    torch.manual_seed(0)
    return build_network(SETTINGS).state_dict()


def card_of(sources=(GENERATED,), fingerprints=(), **more):
    record = make_record(list(sources), architecture=architecture_fingerprint(SETTINGS), fingerprints=fingerprints, **more)
    return {"network": SETTINGS, "prior": PRIOR, "record": seal(record, tensors())}


@pytest.fixture
def mine(tmp_path, sample):
    """A folder with a volume of one's own, unrelated to any truth, and a copy of the truth in disguise."""
    unrelated = np.zeros((33, 41, 41), np.float32)
    unrelated[6:27, 5:36, 7:35] = np.random.default_rng(0).normal(0, 0.05, (21, 31, 28))
    write_volume(tmp_path / "mine" / "a.nii.gz", unrelated, voxel_size_mm=(5.0, 5.0, 5.0))
    disguised = np.rot90(sample[1].chi_ppm.numpy(), axes=(1, 2))[::-1] * 300
    write_volume(tmp_path / "theirs" / "b.nii.gz", disguised, voxel_size_mm=(5.0, 5.0, 5.0))
    return tmp_path


def test_a_record_of_the_generator_is_clean():
    found = check_record(card_of(), tensors())
    assert found.clean
    assert "made by the training itself, names generated phantoms only" in found.reason


def test_a_record_of_volumes_is_clean(mine):
    source, prints = folder_source(mine / "mine")
    found = check_record(card_of([source], prints, made_by="declaration"), tensors())
    assert found.clean
    assert "declared afterwards, names 1 volumes" in found.reason


def without(card, key):
    return {k: v for k, v in card.items() if k != key}


def tampered(card, key, value):
    changed = copy.deepcopy(card)
    changed["record"][key] = value
    return changed


def blank(detail):
    """A folder whose one volume has a signature that agrees with nothing."""
    signature = Signature(detail, None if detail is None else detail > 0, None)
    source = {"kind": "folder", "use": "training", "folder": "x", "volumes": [{"name": "a", "content": "0", "shape": [6, 6, 6]}]}
    return card_of([source], [Fingerprint("a", "0", (6, 6, 6), signature)])


def with_source(**changes):
    return lambda: card_of([GENERATED | changes])


BAD_CARDS = {
    "record removed": (lambda: without(card_of(), "record"), "no record"),
    "record emptied": (lambda: card_of() | {"record": {}}, "not of the form"),
    "record is text": (lambda: card_of() | {"record": "clean"}, "not of the form"),
    "record tampered": (lambda: tampered(card_of(), "sources", [GENERATED | {"seed": 7}]), "changed after it was sealed"),
    "record of the future": (lambda: tampered(card_of(), "format", 99), "format 99"),
    "another network": (lambda: card_of() | {"network": {**SETTINGS, "keywords": {"width": 4, "depth": 1}}}, "architecture"),
    "network removed": (lambda: without(card_of(), "network"), "cannot be read"),
    "nothing named": (lambda: card_of([]), "names nothing"),
    "only validated": (with_source(use="validation", stream="validation"), "names nothing"),
    "test heads": (with_source(stream="test"), "stream 'test'"),
    "validation heads": (with_source(stream="validation"), "stream 'validation'"),
    "unknown source": (with_source(kind="scanner"), "unknown kind 'scanner'"),
    "heads for nobody knows what": (lambda: card_of([GENERATED, without(GENERATED, "use") | {"stream": "test"}]), "stream 'test'"),
    "no stream": (lambda: card_of([GENERATED, without(without(GENERATED, "use"), "stream")]), "stream None"),
    "no seed": (lambda: card_of([without(GENERATED, "seed")]), "without a seed"),
    "made by nobody": (lambda: card_of(made_by="hand"), "made by 'hand'"),
    "blank signature": (lambda: blank(None), "signature of x/a is blank"),
    "uniform signature": (lambda: blank(np.ones((6, 6, 6), np.float32)), "signature of x/a is blank"),
    "recipe changed": (with_source(recipe_digest="0" * 16), "recipe and digest differ"),
    "recipe exchanged": (with_source(recipe={"size": 3}), "recipe and digest differ"),
    "recipe removed": (with_source(recipe=None), "recipe and digest differ"),
    "empty folder": (lambda: card_of([{"kind": "folder", "use": "training", "folder": "x", "volumes": []}]), "without volumes"),
    "source is text": (lambda: card_of(["phantoms"]), "names nothing"),
    "went on from unknown weights": (lambda: card_of(earlier_problem="it carries no record"), "not attested: it carries no record"),
}


@pytest.mark.parametrize("what", BAD_CARDS)
def test_bad_records_are_told_apart(what):
    make, reason = BAD_CARDS[what]
    found = check_record(make(), tensors())
    assert not found.clean
    assert reason in found.reason


def test_exchanged_weights_are_noticed():
    others = {name: t + 0.01 if t.is_floating_point() else t for name, t in tensors().items()}
    found = check_record(card_of(), others)
    assert not found.clean
    assert "weights are not those" in found.reason


def test_a_bad_link_spoils_the_chain():
    bad = card_of([GENERATED | {"stream": "test"}])["record"]
    found = check_record(card_of(earlier=bad), tensors())
    assert not found.clean
    assert "stream 'test'" in found.reason


def saved(tmp_path, card):
    save_weights(tmp_path / "w.safetensors", tensors(), card)
    return Method("unet", unet, checkpoint=str(tmp_path / "w.safetensors"))


def test_networks_with_a_clean_record_enter(tmp_path):
    admission = admit([Method("tkd", tkd), saved(tmp_path, card_of())])
    assert admission.attested == {"unet": True}


def test_networks_without_are_refused_or_marked(tmp_path):
    method = saved(tmp_path, without(card_of(), "record"))
    with pytest.raises(InputError, match=r"unet may not enter .* no record .*w\.safetensors.*qsmdl attest.*allow_unattested=true"):
        admit([method])
    assert admit([method], allow_unattested=True).attested == {"unet": False}


def test_a_network_that_shows_no_weights_is_refused():
    def mystery(field):
        return field

    mystery.about = About(kind="deep learning")
    with pytest.raises(InputError, match="no weights file"):
        admit([Method("mystery", mystery)])


def test_a_network_that_calls_itself_something_else_is_a_network(tmp_path):
    def disguised(field, *, checkpoint: str | None = None):
        return field

    disguised.kind = "iterative"
    method = saved(tmp_path, without(card_of(), "record"))
    with pytest.raises(InputError, match="may not enter"):
        admit([Method("disguised", disguised, **method.settings)])


def test_signatures_that_are_no_numbers_are_no_crash(tmp_path, mine):
    """Python's JSON reads Infinity."""
    card = card_of(*map(list, ([folder_source(mine / "mine")[0]], folder_source(mine / "mine")[1])))
    for volume in card["record"]["volumes"].values():
        volume["detail"]["shape"] = [float("inf")] * 3
    assert not check_record(card, tensors()).clean
    with pytest.raises(InputError, match="cannot be read"):
        Signature.decode(volume)


def test_the_brain_mask_is_looked_for_where_another_is_scored_in(tmp_path, sample):
    truth = sample[1]
    eroded = torch.from_numpy(ndimage.binary_erosion(truth.mask.numpy()))
    scored = dataclasses.replace(truth, mask=eroded, brain_mask=truth.mask)
    write_volume(tmp_path / "brain.nii", truth.mask, dtype=np.uint8)
    write_volume(tmp_path / "eroded.nii", eroded, dtype=np.uint8)
    for name, volume in {"brain": truth.mask, "eroded": eroded}.items():
        write_volume(tmp_path / f"{name}_turned.nii", volume.flip(0).transpose(1, 2) * 7.0)
    hits = {hit.volume: hit.what for hit in find_hits(fingerprint_folder(tmp_path), {"Sim2": scored})}
    assert hits == {"brain.nii": "mask", "eroded.nii": "mask", "brain_turned.nii": "outline", "eroded_turned.nii": "outline"}


def test_the_shipped_weights_enter():
    assert admit([Method("unet", unet)]).attested == {"unet": True}
    assert SHIPPED_WEIGHTS.exists()


def test_a_truth_in_disguise_stops_the_evaluation(tmp_path, mine, sample):
    source, prints = folder_source(mine / "theirs")
    admission = admit([saved(tmp_path, card_of([GENERATED, source], prints))])
    with pytest.raises(InputError, match=r"volumes of unet: theirs/b\.nii\.gz shows the content of the truth Sim2 \(correlation 0\.9.*train again"):
        admission.check_truths({"Sim2": sample[1]})


def test_a_tampered_record_does_not_hide_its_truth(tmp_path, mine, sample):
    source, prints = folder_source(mine / "theirs")
    card = tampered(card_of([GENERATED, source], prints), "n_steps", 1)
    admission = admit([saved(tmp_path, card)], allow_unattested=True)
    with pytest.raises(InputError, match=r"b\.nii\.gz"):
        admission.check_truths({"Sim2": sample[1]})


def test_a_truth_that_an_earlier_training_saw_is_found(tmp_path, mine, sample):
    source, prints = folder_source(mine / "theirs")
    earlier = card_of([source], prints)["record"]
    admission = admit([saved(tmp_path, card_of(earlier=earlier))])
    assert admission.attested == {"unet": True}
    with pytest.raises(InputError, match=r"b\.nii\.gz"):
        admission.check_truths({"Sim2": sample[1]})


def test_exact_copies_of_truth_and_mask_are_named_as_such(tmp_path, sample):
    truth = sample[1]
    write_volume(tmp_path / "chi.nii.gz", truth.chi_ppm)
    write_volume(tmp_path / "mask.nii", truth.mask, dtype=np.uint8)
    hits = find_hits(fingerprint_folder(tmp_path), {"Sim2": truth})
    assert [(hit.volume, hit.what, hit.correlation) for hit in hits] == [("chi.nii.gz", "values", 1.0), ("mask.nii", "mask", 1.0)]


def test_own_volumes_pass(mine, sample):
    check_truths(fingerprint_folder(mine / "mine"), {"Sim2": sample[1]})


def test_both_scans_of_one_head_are_one_truth(sample):
    """They share the mask; that is no reason to stop."""
    check_truths([], {"Sim2Snr1": sample[1], "Sim2Snr2": sample[1]})


def test_releases_give_their_truths(tmp_path, sample):
    write_release(tmp_path / "R" / "Sim2", *sample)
    write_release(tmp_path / "blind" / "Sim2", sample[0])
    assert list(read_truths([tmp_path / "R"])) == [str(tmp_path / "R" / "Sim2")]
    with pytest.raises(InputError, match="holds no truth"):
        read_truths([tmp_path / "blind"])
    with pytest.raises(InputError, match="not a folder"):
        read_truths([tmp_path / "nowhere"])


def test_a_recipe_has_one_digest():
    recipe = Recipe(voxel_size_mm=(1.0, 2.0))
    assert recipe_digest(json.loads(json.dumps(recipe.to_plain()))) == recipe.digest


def test_streams_never_share_heads():
    """What built-in scans are judged on is not trained on, whatever the seeds."""
    recipe = Recipe()
    heads = [{draw_volume(recipe, volume_seed(stream, seed, i)).head_seed for seed in range(4) for i in range(300)} for stream in ("train", "test")]
    assert not heads[0] & heads[1]


@pytest.mark.parametrize(("n_lanes", "batches_per_volume"), [(1, 4), (2, 3), (3, 1)])
def test_no_more_volumes_are_drawn_than_recorded(n_lanes, batches_per_volume):
    stream = PhantomStream(
        Recipe(), Prior(), patch_size=(4, 4, 4), batch_size=1, batches_per_volume=batches_per_volume, n_lanes=n_lanes, seed=0
    )
    seen = set()

    def volume(index):
        seen.add(index)
        maps = {name: torch.zeros(1, 4, 4, 4) for name in ("field_ppm", "prior_ppm", "chi_ppm", "mask", "weight")}
        return maps, (1.0,) * 3, (0.0, 0.0, 1.0), torch.zeros(1, 3, dtype=torch.long)

    for n_batches in range(1, 20):
        stream.batch(n_batches - 1, volume)
        recorded = n_volumes_drawn(n_batches, n_lanes=n_lanes, batches_per_volume=batches_per_volume)
        assert max(seen) < recorded <= n_batches + n_lanes
        assert recorded <= n_lanes * (1 + n_batches // (n_lanes * batches_per_volume) + 1)


def test_a_data_module_names_what_it_reads():
    data = PhantomData(Recipe(), Recipe(voxel_size_mm=(2.0, 2.0)), Prior(), n_workers=2, batches_per_volume=10, n_validation_volumes=3, seed=5)
    training, validation = data.sources(45)
    assert (training["stream"], training["seed"], training["n_volumes"], training["use"]) == ("train", 5, 6, "training")
    assert (validation["stream"], validation["n_volumes"], validation["use"]) == ("validation", 3, "validation")
    assert validation["recipe"]["voxel_size_mm"] == (2.0, 2.0)
    with pytest.raises(InputError, match="n_volumes is -1"):
        generator_source(Recipe(), stream="train", seed=0, n_volumes=-1)
