"""Label tables from files, the built-in ones, and label maps in NIfTI files."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.io.label_map import read_label_map
from qsmdl.io.label_table import BUILT_IN, LabelEntry, check_labels_known, read_label_table
from qsmdl.scan import LABELS

YAML = """
extends: freesurfer
24: background
28: {tissue: red_nucleus, chi_ppm: [0.0, 0.06]}
99: {name: cyst, chi_ppm: 0.01, r1_per_s: [0.2, 0.4], r2star_per_s: [2, 10], m0: [0.9, 1.0], brain: false}
200: outside_brain
"""
OWN = {"chi_ppm": [-0.1, 0.1], "r1_per_s": [0.2, 0.4], "r2star_per_s": [2, 10], "m0": [0.9, 1.0]}


def written(tmp_path, text, name="table.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_yaml_adds_to_a_built_in_table(tmp_path):
    table = read_label_table(written(tmp_path, YAML))
    assert table[10].tissue == "thalamus"
    assert table[24] == LabelEntry("background", "background")
    assert table[28] == LabelEntry("red_nucleus", "red_nucleus", chi_ppm=(0.0, 0.06))
    assert table[99].chi_ppm == (0.01, 0.01)
    assert table[99].name == "cyst"
    assert not table[99].is_brain
    assert not table[200].is_brain
    assert set(table) == set(BUILT_IN["freesurfer"]) | {99, 200}
    assert BUILT_IN["freesurfer"][24].tissue == "csf"


def test_json_says_the_same_as_yaml(tmp_path):
    content = {"1": "putamen", "2": OWN, "3": {"tissue": "csf", "m0": 1}}
    table = read_label_table(written(tmp_path, json.dumps(content), "table.json"))
    assert table[1].tissue == "putamen"
    assert table[2].r2star_per_s == (2.0, 10.0)
    assert table[3].m0 == (1.0, 1.0)
    assert table[2].is_brain
    assert read_label_table(written(tmp_path, json.dumps(content), "table.yml")) == table


def test_every_label_that_synthseg_and_aseg_write_has_a_tissue():
    synthseg = (0, 2, 3, 4, 5, 7, 8, *range(10, 19), 24, 26, 28, 41, 42, 43, 44, 46, 47, *range(49, 55), 58, 60)
    aseg = (30, 31, 62, 63, 72, 77, 80, 85, *range(251, 256))
    parcels = (*range(1000, 1036), *range(2000, 2036))
    table = read_label_table("freesurfer")
    assert set(synthseg) | set(aseg) | set(parcels) <= set(table)
    known = {
        2: "white_matter", 3: "grey_matter", 4: "csf", 7: "white_matter", 8: "grey_matter", 10: "thalamus", 11: "caudate", 12: "putamen",
        13: "globus_pallidus", 16: "white_matter", 17: "grey_matter", 26: "grey_matter", 28: "thalamus", 77: "white_matter", 85: "white_matter",
    }  # fmt: skip
    assert {n: table[n].tissue for n in known} == known
    # Left and right mean the same.
    pairs = {2: 41, 3: 42, 4: 43, 5: 44, 7: 46, 8: 47, 10: 49, 11: 50, 12: 51, 13: 52, 17: 53, 18: 54, 26: 58, 27: 59, 28: 60, 30: 62, 31: 63}
    assert all(table[a].tissue == table[b].tissue for a, b in pairs.items())
    assert not table[0].is_brain
    assert not table[165].is_brain


def test_the_challenges_labels_are_those_of_the_package():
    table = read_label_table("rc2")
    assert {n: e.tissue for n, e in table.items() if n} == {n: name for name, n in LABELS.items()}
    assert [n for n, e in table.items() if not e.is_brain] == [0, 12, 13, 14, 15]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10: thalmus", r"label 10: tissue is 'thalmus'; did you mean 'thalamus'\?"),
        ("10: {tissue: 5}", "label 10: tissue is 5"),
        ("10: {tisue: csf}", r"label 10: it has no setting 'tisue'; did you mean 'tissue'\?"),
        ("10: 7", "label 10: its entry is 7"),
        ("10:", "label 10: its entry is None"),
        ("ten: csf", "'ten' is no label"),
        ("-3: csf", "-3 is no label"),
        ("true: csf", "True is no label"),
        ("10: {chi_ppm: [0, 1]}", "r1_per_s, r2star_per_s, m0 missing"),
        ("10: {tissue: csf, r2star_per_s: [-5, 10]}", "label 10: r2star_per_s is .* must not be negative"),
        ("10: {tissue: csf, m0: [1, 0.5]}", "label 10: m0 is .* low <= high"),
        ("10: {tissue: csf, m0: [1, .nan]}", "label 10: m0 is"),
        ("10: {tissue: csf, m0: '1'}", "label 10: m0 is '1'"),
        ("10: {tissue: csf, chi_ppm: [10, 60]}", "given in ppb"),
        ("10: {tissue: csf, brain: 1}", "label 10: brain is 1"),
        ("0: {tissue: background, chi_ppm: 0}", "background is air"),
        ("10: csf\n10: putamen", "occur more than once"),
        ("extends: freesurfr\n10: csf", r"no built-in label table 'freesurfr'; did you mean 'freesurfer'\?"),
        ("- 10\n- 11", "holds no entries"),
        ("", "holds no entries"),
        ("10: [csf", "could not be read as YAML"),
        ("[1, 2]: csf", "could not be read as YAML|is no label"),
    ],
)
def test_bad_tables_name_the_file_and_the_label(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=message) as error:
        read_label_table(path)
    assert "table.yaml" in str(error.value) or "built-in" in str(error.value)


def test_other_bad_tables(tmp_path):
    with pytest.raises(InputError, match="could not be read"):
        read_label_table(tmp_path / "missing.yaml")
    with pytest.raises(InputError, match="occur more than once"):
        read_label_table(written(tmp_path, '{"1": "csf", "1": "putamen"}', "twice.json"))
    with pytest.raises(InputError, match="could not be read"):
        read_label_table(written(tmp_path, '{"1": "csf"', "cut.json"))
    with pytest.raises(InputError, match="no built-in label table 'aseg'"):
        read_label_table("aseg")


def save(path, labels, affine):
    nib.save(nib.Nifti1Image(labels, affine), path)
    return path


def labelled():
    """A volume in which each axis can be told from the others and its ends from each other."""
    labels = np.zeros((5, 6, 7), dtype=np.int16)
    labels[3, :, :], labels[:, 1, :], labels[:, :, 5] = 2, 41, 10
    return labels


@pytest.mark.parametrize("codes", ["RAS", "LIA", "PSR", "LPI"])
def test_volumes_are_turned_to_right_anterior_superior(tmp_path, codes):
    upright = nib.Nifti1Image(labelled(), np.diag([1.0, 2.0, 3.0, 1.0]))
    wanted = nib.orientations.axcodes2ornt(codes)
    turned = upright.as_reoriented(nib.orientations.ornt_transform(nib.orientations.io_orientation(upright.affine), wanted))
    nib.save(turned, tmp_path / "seg.nii.gz")
    labels, voxel_mm = read_label_map(tmp_path / "seg.nii.gz", read_label_table("freesurfer"))
    assert labels.dtype == torch.int32
    np.testing.assert_array_equal(labels.numpy(), labelled())
    assert voxel_mm == pytest.approx((1.0, 2.0, 3.0))


def test_floats_that_are_whole_numbers_are_labels(tmp_path):
    path = save(tmp_path / "seg.nii", labelled().astype(np.float64), np.eye(4))
    labels, _ = read_label_map(path, read_label_table("freesurfer"))
    np.testing.assert_array_equal(labels.numpy(), labelled())


def test_unknown_labels_are_listed_with_their_counts(tmp_path):
    labels = labelled()
    labels[0, 0, :2], labels[4, 5, 6] = 4321, 777
    path = save(tmp_path / "seg.nii", labels, np.eye(4))
    with pytest.raises(InputError, match=r"seg.nii holds labels without an entry in its table: 4321 \(2 voxels\), 777 \(1 voxel\)\. Add them"):
        read_label_map(path, read_label_table("freesurfer"))
    with pytest.raises(InputError, match="and 15 more"):
        check_labels_known(torch.arange(36).reshape(6, 6, 1), {0: LabelEntry("csf")}, "x")


def test_volumes_that_are_no_label_maps_are_refused(tmp_path):
    table = read_label_table("freesurfer")
    for name, change in (("half", 0.5), ("negative", -3), ("nan", np.nan), ("huge", 1e9)):
        values = labelled().astype(np.float32)
        values[1, 2, 3] += change
        with pytest.raises(InputError, match=f"{name}.nii is no label map"):
            read_label_map(save(tmp_path / f"{name}.nii", values, np.eye(4)), table)
    with pytest.raises(InputError, match="3-D"):
        read_label_map(save(tmp_path / "four.nii", np.zeros((3, 3, 3, 2), np.int16), np.eye(4)), table)
    image = nib.Nifti1Image(labelled(), np.eye(4))
    image.set_sform(np.diag([1.0, 1.0, 0.0, 1.0]), code=1)
    nib.save(image, tmp_path / "flat.nii")
    with pytest.raises(InputError, match=r"affine of .*flat.nii"):
        read_label_map(tmp_path / "flat.nii", table)
