"""Scans as a BIDS dataset: names and sidecars as the specification has them, the numbers as they were."""

import json
import re
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from qsmdl.challenge.truth import find_truth, read_truth
from qsmdl.errors import InputError
from qsmdl.io.bids import affine_of, b0_of_affine, header_source, read_scan
from qsmdl.io.bids_files import scan_folders
from qsmdl.io.bids_writing import write_bids
from qsmdl.io.layouts import layout_of, scan_name
from qsmdl.io.nifti import read_volume, write_volume
from qsmdl.scan import LABELS, Geometry, Truth

SHAPE = (9, 8, 7)
VOXEL_MM = (0.8, 1.0, 1.5)
TIMES_S = (0.005, 0.011, 0.02)
RECIPE = {"recipe_digest": "0123456789abcdef", "seed": 3, "volume": {"noise_seed": 1}}


@pytest.fixture
def truth(scan, mask):
    chi = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)) * mask
    return Truth(scan.geometry, chi, torch.full(SHAPE, LABELS["white_matter"], dtype=torch.uint8), mask)


@pytest.fixture
def dataset(tmp_path, scan, truth):
    write_bids(tmp_path / "bids", scan, truth, repetition_time_s=0.05, flip_angle_deg=15.0, recipe=RECIPE)
    return tmp_path / "bids"


@pytest.fixture
def subject(dataset):
    return dataset / "sub-Sim1"


@pytest.fixture
def truths(dataset):
    return dataset / "derivatives" / "qsmdl" / "sub-Sim1" / "anat"


def echo(subject, number=1, part="phase", end=".nii.gz"):
    return subject / "anat" / f"{subject.name}_echo-{number}_part-{part}_MEGRE{end}"


def change_json(path, **changes):
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def change_all(subject, **changes):
    for path in (subject / "anat").glob("*.json"):
        change_json(path, **changes)


def test_names_follow_the_specification(dataset):
    """Appendix "entity table" and "quantitative MRI": sub, echo, part, suffix in this order; one JSON for every image."""
    images = sorted(path.name for path in (dataset / "sub-Sim1" / "anat").iterdir())
    assert len(images) == 2 * 2 * len(TIMES_S)
    assert all(re.fullmatch(r"sub-[A-Za-z0-9]+_echo-[1-9][0-9]*_part-(mag|phase)_MEGRE\.(nii\.gz|json)", name) for name in images)
    assert {name.removesuffix(".json") for name in images if name.endswith("json")} == {n[:-7] for n in images if n.endswith("gz")}
    derived = {path.name for path in (dataset / "derivatives/qsmdl/sub-Sim1/anat").iterdir()}
    stems = {"sub-Sim1_Chimap", "sub-Sim1_mask", "sub-Sim1_dseg", "sub-Sim1_desc-local_fieldmap"}
    assert derived == {stem + end for stem in stems for end in (".nii.gz", ".json")}
    assert {path.name for path in dataset.iterdir()} == {"README", "dataset_description.json", "derivatives", "sourcedata", "sub-Sim1"}


def test_datasets_are_described(dataset):
    raw = json.loads((dataset / "dataset_description.json").read_text())
    derived = json.loads((dataset / "derivatives/qsmdl/dataset_description.json").read_text())
    assert raw["DatasetType"] == "raw"
    assert derived["DatasetType"] == "derivative"
    assert derived["GeneratedBy"][0]["Name"] == "qsmdl"  # required in derivatives
    for content in (raw, derived):
        assert content["Name"]
        assert re.fullmatch(r"1\.\d+\.\d+", content["BIDSVersion"])
    rows = [line.split("\t") for line in (dataset / "derivatives/qsmdl/dseg.tsv").read_text().splitlines()]
    assert rows[0] == ["index", "name"]
    assert {name: int(number) for number, name in rows[2:]} == LABELS


def test_sidecars_hold_what_is_required(subject, scan, truths):
    for part, units in (("mag", "arbitrary"), ("phase", "rad")):  # Units are required for the phase, "rad" or "arbitrary"
        found = [json.loads(echo(subject, n, part, ".json").read_text()) for n in (1, 2, 3)]
        assert [content["EchoTime"] for content in found] == list(TIMES_S)
        for content in found:
            assert content["Units"] == units
            assert content["MagneticFieldStrength"] == 3.0
            assert content["RepetitionTimeExcitation"] == content["RepetitionTime"] == 0.05
            assert content["FlipAngle"] == 15.0
            np.testing.assert_allclose(content["B0_dir"], scan.geometry.b0_direction)
            assert content["SimulatedBy"]["recipe_digest"] == RECIPE["recipe_digest"]
            assert content["SimulatedBy"]["seed"] == 3
    assert json.loads((truths / "sub-Sim1_Chimap.json").read_text())["Units"] == "ppm"
    assert json.loads((truths / "sub-Sim1_mask.json").read_text())["Type"] == "Brain"
    assert json.loads((subject.parent / "sourcedata/sub-Sim1/recipe.json").read_text()) == RECIPE


def test_what_is_written_is_read_again(subject, scan, truth, caplog):
    again = read_scan(subject)
    for name in ("magnitude", "phase_rad", "mask"):
        assert torch.equal(getattr(again, name), getattr(scan, name)), name
    torch.testing.assert_close(again.frequency_ppm, scan.frequency_ppm)
    assert again.echo_times_s == TIMES_S
    assert again.name == scan_name(subject) == "Sim1"
    assert again.geometry.b0_tesla == 3.0
    np.testing.assert_allclose(again.geometry.voxel_size_mm, VOXEL_MM, rtol=1e-6)
    np.testing.assert_allclose(again.geometry.b0_direction, scan.geometry.b0_direction)
    assert layout_of(subject) == "bids"
    known = read_truth(subject)
    assert torch.equal(known.chi_ppm, truth.chi_ppm)
    assert torch.equal(known.labels, truth.labels)
    assert torch.equal(known.mask, truth.mask)
    assert caplog.text == ""


def test_the_affine_alone_tells_where_b0_is(subject, scan):
    """Columns of the affine are the voxel axes in the world, whose z is B0's: no B0_dir is needed."""
    change_all(subject, B0_dir=None)
    np.testing.assert_allclose(read_scan(subject).geometry.b0_direction, scan.geometry.b0_direction, atol=1e-5)
    affine = nib.load(header_source(subject)).affine
    np.testing.assert_allclose(affine[:3, :3] @ (np.array(scan.geometry.b0_direction) / VOXEL_MM), (0, 0, 1), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), VOXEL_MM, rtol=1e-5)
    assert np.linalg.det(affine[:3, :3]) > 0


@pytest.mark.parametrize("direction", [(0.0, 0.0, 1.0), (0.0, 0.0, -1.0), (0.6, 0.0, 0.8), (0.36, -0.48, -0.8), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0)])
@pytest.mark.parametrize("turned", [False, True])
def test_affines_are_turned_as_little_as_b0_asks(direction, turned):
    own = None
    if turned:  # a sagittal scan: the voxels' axes are not those of the world
        own = np.array([[0, 0, 1.5, 5], [0.8, 0, 0, -3], [0, 1.0, 0, 2], [0, 0, 0, 1]])
    geometry = Geometry(SHAPE, VOXEL_MM, direction, 3.0, own)
    affine = affine_of(geometry)
    np.testing.assert_allclose(b0_of_affine(affine), direction, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), VOXEL_MM)
    before = np.diag([*VOXEL_MM, 1.0]) if own is None else own
    along = (before[:3, :3] / VOXEL_MM) @ np.array(direction)
    angle = np.arccos(np.clip((np.trace(affine[:3, :3] @ np.linalg.inv(before[:3, :3])) - 1) / 2, -1, 1))
    assert angle == pytest.approx(np.arccos(along[2]), abs=1e-6)
    if along[2] == 1:
        np.testing.assert_array_equal(affine, before)


def test_a_sidecar_against_its_affine_wins_with_a_warning(subject, caplog):
    change_all(subject, B0_dir=[1.0, 0.0, 0.0])
    assert read_scan(subject).geometry.b0_direction == (1.0, 0.0, 0.0)
    assert "affine" in caplog.text


def test_metadata_are_inherited(dataset, subject):
    """From the dataset's root and the subject's folder; what is nearer wins."""
    change_all(subject, MagneticFieldStrength=None)
    (dataset / "MEGRE.json").write_text('{"MagneticFieldStrength": 1.5}')
    assert read_scan(subject).geometry.b0_tesla == 1.5
    (subject / f"{subject.name}_part-phase_MEGRE.json").write_text('{"MagneticFieldStrength": 2.9}')
    assert read_scan(subject).geometry.b0_tesla == 2.9


def test_sessions_are_scans_of_their_own(dataset, subject, truths):
    for place in (subject / "anat", truths):
        for path in list(place.iterdir()):
            target = place.parent / "ses-2" / "anat" / path.name.replace("sub-Sim1_", "sub-Sim1_ses-2_")
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        place.rmdir()
    assert scan_folders(dataset) == [subject / "ses-2"]
    assert read_scan(subject / "ses-2").name == "Sim1_ses-2"
    assert read_truth(subject / "ses-2").chi_ppm.shape == SHAPE


def test_uncompressed_echoes_are_read_alike(subject, scan):
    for path in (subject / "anat").glob("*.nii.gz"):
        nib.save(nib.load(path), path.with_suffix(""))
        path.unlink()
    assert torch.equal(read_scan(subject).phase_rad, scan.phase_rad)


def test_reading_a_scan_opens_no_truth(subject, truths):
    for path in truths.glob("*_Chimap.nii.gz"):
        path.write_bytes(b"no volume")
    read_scan(subject)
    with pytest.raises(InputError, match="Chimap"):
        read_truth(subject)


def test_maps_of_other_pipelines_are_no_truth(dataset, subject, truths):
    other = dataset / "derivatives" / "tool" / "sub-Sim1" / "anat"
    other.mkdir(parents=True)
    (truths / "sub-Sim1_Chimap.nii.gz").rename(other / "sub-Sim1_Chimap.nii.gz")
    assert find_truth(subject) is None
    with pytest.raises(InputError, match="has no truth"):
        read_truth(subject)
    shutil.copy(truths / "sub-Sim1_mask.nii.gz", other / "sub-Sim1_mask.nii.gz")
    assert read_scan(subject).mask.any()  # qsmdl's own mask goes before that of others


def test_blind_data_have_no_truth(tmp_path, scan):
    subject = write_bids(tmp_path, scan)
    assert not list(tmp_path.rglob("*Chimap*")) + list(tmp_path.rglob("*dseg.nii*"))
    assert find_truth(subject) is None
    assert read_scan(subject).echo_times_s == TIMES_S


def remask(subject, truths):
    (truths / "sub-Sim1_mask.nii.gz").unlink()


def second_mask(subject, truths):
    shutil.copy(truths / "sub-Sim1_mask.nii.gz", truths / "sub-Sim1_desc-other_mask.nii.gz")


def spoil(subject, truths):
    volume, _ = read_volume(echo(subject, 2))
    volume[3, 4, 5] = float("nan")
    write_volume(echo(subject, 2), volume, voxel_size_mm=VOXEL_MM, overwrite=True)


def cut(subject, truths):
    write_volume(echo(subject, 2, "mag"), torch.ones(9, 8, 6), voxel_size_mm=VOXEL_MM, overwrite=True)


def count_in_integers(subject, truths):
    write_volume(echo(subject, 3), 4095 * torch.rand(SHAPE), voxel_size_mm=VOXEL_MM, overwrite=True)


DAMAGE = {
    "a phase is missing": (lambda s, t: echo(s, 2).unlink(), "echo 2 of only one"),
    "no phase at all": (lambda s, t: [echo(s, n).unlink() for n in (1, 2, 3)], "no part-phase"),
    "an echo twice": (lambda s, t: shutil.copy(echo(s), echo(s, end=".nii")), "both echo 1 of part-phase"),
    "no echo number": (lambda s, t: echo(s).rename(s / "anat" / f"{s.name}_part-phase_MEGRE.nii.gz"), "no echo number"),
    "two runs": (lambda s, t: shutil.copy(echo(s), s / "anat" / f"{s.name}_run-2_echo-1_part-phase_MEGRE.nii.gz"), "more than one scan"),
    "nothing": (lambda s, t: shutil.rmtree(s / "anat"), "no multi-echo gradient echo"),
    "no mask": (remask, "no brain mask"),
    "two masks": (second_mask, "desc-other_mask"),
    "no echo time": (lambda s, t: change_json(echo(s, 2, end=".json"), EchoTime=None), "echo-2_part-phase.* EchoTime None"),
    "echo times in ms": (lambda s, t: change_json(echo(s, 3, end=".json"), EchoTime=20), "EchoTime 20; an echo time in s"),
    "echo times in disorder": (lambda s, t: change_json(echo(s, 3, end=".json"), EchoTime=0.006), "must ascend"),
    "no field strength": (lambda s, t: change_all(s, MagneticFieldStrength=None), "MagneticFieldStrength None"),
    "two field strengths": (lambda s, t: change_json(echo(s, 3, end=".json"), MagneticFieldStrength=7), "differ in MagneticFieldStrength"),
    "B0_dir too long": (lambda s, t: change_all(s, B0_dir=[1, 1, 1]), "unit vector"),
    "B0_dir no vector": (lambda s, t: change_all(s, B0_dir=[0, 1]), "three numbers"),
    "not json": (lambda s, t: echo(s, end=".json").write_text("{"), "not valid JSON"),
    "json of a list": (lambda s, t: echo(s, end=".json").write_text("[]"), "one JSON object"),
    "a field in unknown units": (lambda s, t: change_json(t / "sub-Sim1_desc-local_fieldmap.json", Units="T"), "Units 'T'"),
    "another grid": (cut, r"echo-2_part-mag.*\(9, 8, 6\)"),
    "NaN": (spoil, "echo-2_part-phase.* NaN"),
    "phase in integers": (count_in_integers, "echo-3_part-phase.*lies between -pi and pi"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named(subject, truths, what):
    damage, message = DAMAGE[what]
    damage(subject, truths)
    with pytest.raises(InputError, match=message):
        read_scan(subject)


def test_a_dataset_is_not_a_scan(dataset):
    with pytest.raises(InputError, match=r"is a BIDS dataset\. Name one .*: sub-Sim1"):
        read_scan(dataset)


def test_subjects_are_added_and_replaced_only_when_asked(dataset, scan, truth):
    write_bids(dataset, replace(scan, name="Sim_2"), truth)
    assert [path.name for path in scan_folders(dataset)] == ["sub-Sim1", "sub-Sim2"]
    with pytest.raises(InputError, match="--overwrite"):
        write_bids(dataset, scan, truth)
    write_bids(dataset, replace(scan, magnitude=2 * scan.magnitude), truth, overwrite=True)
    assert torch.equal(read_scan(dataset / "sub-Sim1").magnitude, 2 * scan.magnitude)


def test_what_cannot_be_written_is_told(tmp_path, dataset, scan, truth):
    change_json(dataset / "dataset_description.json", GeneratedBy=None)
    with pytest.raises(InputError, match="did not make"):
        write_bids(dataset, replace(scan, name="new"), truth)
    with pytest.raises(InputError, match="no letter or digit"):
        write_bids(tmp_path / "b", replace(scan, name="_"), truth)
    small = Truth(Geometry((9, 8, 6)), truth.chi_ppm[..., :6], truth.labels[..., :6], truth.mask[..., :6])
    with pytest.raises(InputError, match=r"\(9, 8, 6\)"):
        write_bids(tmp_path / "b", scan, small)
    assert not (tmp_path / "b").exists()
