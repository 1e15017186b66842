"""Packing: what goes into an archive, what stays out of it, and what is refused before."""

import dataclasses
import json
import re
import struct
import zipfile

import nibabel as nib
import numpy as np
import pytest
from archive_samples import ID, SHAPE, chi_map, nifti

from qsmdl.challenge.form import Form, check_identifier, form_from, new_identifier, read_form
from qsmdl.challenge.submission import assign_scans, entry_name, pack, scan_of_entry, stage_of_scan
from qsmdl.errors import InputError

SECRETS = (b"Dr. Example", b"Hospital", b"2021-05-06", b"scanner-7")
STAGE_2 = ("Sim1Snr1", "Sim1Snr2", "Sim2Snr1", "Sim2Snr2")


def telling_image(values):
    """An image whose header says whose it is, wherever a NIfTI header can."""
    image = nib.Nifti1Image(values, np.diag([1.0, 1.2, 1.5, 1.0]))
    image.header["descrip"], image.header["aux_file"] = b"Dr. Example", b"Hospital"
    image.header["db_name"], image.header["intent_name"] = b"scanner-7", b"2021-05-06"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Dr. Example, Hospital of Nowhere"))
    return image


@pytest.fixture
def form():
    return Form(ID, 1, "Thresholded k-space division", "TKD", "direct", "all echoes", False, "threshold 0.15", (), 0.4)


@pytest.fixture
def maps(tmp_path):
    paths = {scan: tmp_path / f"{scan}_tkd_Hospital.nii.gz" for scan in ("Sim1", "Sim2")}
    for scan, path in paths.items():
        nib.save(telling_image(chi_map(scan)), path)
    return paths


def test_identifiers_are_random_and_have_ten_characters():
    drawn = {new_identifier() for _ in range(200)}
    assert len(drawn) == 200
    assert all(re.fullmatch("[A-Z0-9]{10}", text) for text in drawn)


@pytest.mark.parametrize("text", ["", "short", "AB12CD34EFG", "AB12CD34E-", "AB12CD34E\n", "../../../x", "ÄB12CD34EF"])
def test_other_identifiers_are_refused(text):
    with pytest.raises(InputError, match="letters"):
        check_identifier(text)


def test_names_are_those_of_the_challenge():
    assert entry_name(ID, "Sim1") == "AB12CD34EF_Sim1_Step1.nii"
    assert entry_name(ID, "Sim2Snr1", ".nii.gz") == "AB12CD34EF_Sim2Snr1_Step2.nii.gz"
    for suffix in ("", ".gz"):
        assert scan_of_entry(f"AB12CD34EF_Sim2Snr1_Step2.nii{suffix}", ID, 2) == "Sim2Snr1"
    with pytest.raises(InputError, match="There is no scan 'Sim3'"):
        stage_of_scan("Sim3")


def test_an_archive_holds_the_maps_and_nothing_that_tells_whose_they_are(tmp_path, maps, form):
    packed = pack(maps, tmp_path / "out", form=form)
    assert packed.archive == tmp_path / "out" / f"{ID}.zip"
    data = packed.archive.read_bytes()
    with zipfile.ZipFile(packed.archive) as archive:
        assert archive.namelist() == [f"{ID}_Sim1_Step1.nii", f"{ID}_Sim2_Step1.nii"]
        assert archive.comment == b""
        for info, scan in zip(archive.infolist(), maps, strict=True):
            assert (info.date_time, info.extra, info.comment) == ((1980, 1, 1, 0, 0, 0), b"", b"")
            content = archive.read(info)
            image = nib.Nifti1Image.from_bytes(content)
            assert np.array_equal(image.get_fdata(), chi_map(scan))
            assert np.allclose(image.header.get_zooms(), (1.0, 1.2, 1.5))
            assert not image.header.extensions
            assert not any(secret in content for secret in SECRETS)
    assert not any(secret in data for secret in SECRETS)


def test_the_same_maps_give_the_same_bytes(tmp_path, maps, form):
    first = pack(maps, tmp_path / "a", form=form).archive.read_bytes()
    assert pack(dict(reversed(maps.items())), tmp_path / "b", form=form).archive.read_bytes() == first


def test_the_form_is_a_file_of_its_own(tmp_path, maps, form):
    packed = pack(maps, tmp_path / "out", form=form)
    assert read_form(packed.form) == form
    content = json.loads(packed.form.read_text())
    assert content["type"] == "direct"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"{ID}.json", f"{ID}.zip"]


def test_nothing_is_replaced_or_left_half(tmp_path, maps, form):
    pack(maps, tmp_path / "out", form=form)
    with pytest.raises(InputError, match="exists already"):
        pack(maps, tmp_path / "out", form=form)
    (tmp_path / "out" / f"{ID}.zip").unlink()
    with pytest.raises(InputError, match=r"json exists already"):
        pack(maps, tmp_path / "out", form=form)
    assert [p.name for p in (tmp_path / "out").iterdir()] == [f"{ID}.json"]
    pack(maps, tmp_path / "out", form=form, overwrite=True)


def spoilt(path, function):
    image = nib.load(path)
    nib.save(nib.Nifti1Image(function(image.get_fdata().copy()).astype(np.float32), image.affine), path)


def first_nan(values):
    values[3, 4, 5] = np.nan
    return values


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (first_nan, r"Sim1_tkd.* holds 1 NaN or infinite values, the first at index \(3, 4, 5\)"),
        (lambda v: v[:, :-1], r"Sim2_tkd.* has the shape \(14, 18, 16\), but .*Sim1_tkd.* has \(14, 17, 16\)"),
        (lambda v: np.stack([v, v], axis=-1), "4-D"),
        (lambda v: 0 * v, "0 everywhere"),
        (lambda v: 1000 * v, r"looks like .*ppb \(divide by 1000\)"),
        (lambda v: 298.04 * v, r"Hz at 7 T \(divide by 298\.04\)"),
        (lambda v: 1e-6 * v, "fraction"),
        (lambda v: 1e9 * v, r"in ppm that would be between 0\.01 and 2 for a head\. Hand in"),
    ],
)
def test_maps_are_checked_before_they_are_packed(tmp_path, maps, form, spoil, reason):
    spoilt(maps["Sim1"], spoil)
    with pytest.raises(InputError, match=reason):
        pack(maps, tmp_path / "out", form=form)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("offset", "value"), [(280, np.nan), (280, 0.0), (80, np.inf)])
def test_a_header_that_cannot_be_written_again(tmp_path, maps, form, offset, value):
    content = nifti(chi_map("Sim1"), patches=[(254, struct.pack("<h", 1 if offset == 280 else 0)), (offset, struct.pack("<4f", value, 0, 0, 0))])
    maps["Sim1"] = tmp_path / "Sim1.nii"
    maps["Sim1"].write_bytes(content)
    with pytest.raises(InputError, match=r"Sim1\.nii has the affine .* no header can be written"):
        pack(maps, tmp_path / "out", form=form)
    assert not (tmp_path / "out").exists()


def test_a_stage_is_whole_and_of_one_kind(tmp_path, maps, form):
    with pytest.raises(InputError, match="no map of Sim2"):
        pack({"Sim1": maps["Sim1"]}, tmp_path / "out", form=form)
    with pytest.raises(InputError, match="says stage 2, but Sim1 is a scan of stage 1"):
        pack(maps, tmp_path / "out", form=dataclasses.replace(form, stage=2))


def test_file_names_tell_the_scans(tmp_path):
    assert assign_scans(["a/Sim1_tv.nii.gz", f"b/{ID}_Sim2_Step1.nii"]) == {
        "Sim1": tmp_path.__class__("a/Sim1_tv.nii.gz"), "Sim2": tmp_path.__class__(f"b/{ID}_Sim2_Step1.nii")
    }  # fmt: skip
    assert set(assign_scans([f"{scan}=chi.nii" for scan in STAGE_2])) == set(STAGE_2)
    assert set(assign_scans([f"{scan}_fine.nii.gz" for scan in STAGE_2])) == set(STAGE_2)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["chi.nii"], "tells no scan"),
        (["Sim1_Sim2.nii"], "tells Sim1 and Sim2"),
        (["Sim12.nii"], "tells no scan"),
        (["Sim1.nii"], "no map of Sim2"),
        (["Sim1.nii", "Sim1_b.nii", "Sim2.nii"], "two maps of Sim1"),
        (["Sim1.nii", "Sim2Snr1.nii"], "is of one stage"),
        (["Sim9=chi.nii"], "no scan 'Sim9'"),
    ],
)
def test_names_that_do_not_tell(words, reason):
    with pytest.raises(InputError, match=reason):
        assign_scans(words)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"type": "magic"}, "type is 'magic', but must be one of direct, iterative, deep learning"),
        ({"type": ["direct"]}, "type is"),
        ({"input_used": "all echos"}, "did you mean 'all echoes'"),
        ({"magnitude_used": "yes"}, "magnitude_used is 'yes', but must be true or false"),
        ({"magnitude_used": 1}, "magnitude_used is 1"),
        ({"seeds": 3}, "seeds is 3"),
        ({"seeds": [1, -2]}, "whole numbers from 0 on"),
        ({"seeds": [True]}, "whole numbers"),
        ({"runtime_s": -1}, "runtime_s is -1"),
        ({"runtime_s": float("nan")}, "runtime_s is nan"),
        ({"runtime_s": "12 s"}, "wall time"),
        ({"name": ""}, "name is ''"),
        ({"name": "=HYPERLINK(1)"}, "begins with a letter or digit"),
        ({"name": "two\nlines"}, "on one line"),
        ({"name": "x" * 101}, "1 to 100 printable characters"),
        ({"acronym": "\x1b[2J"}, "acronym is"),
        ({"acronym": "X (Y)"}, "acronym is"),
        ({"acronym": 5}, "acronym is 5"),
        ({"regularisation": None}, "regularisation is None"),
        ({"institution": 7}, "institution is 7"),
        ({"stage": 3}, "stage is 3"),
        ({"stage": True}, "stage is True"),
        ({"identifier": "../../etc"}, "identifier"),
        ({"regularization": "TV"}, "did you mean 'regularisation'"),
    ],
)
def test_forms_are_checked(form, change, reason):
    with pytest.raises(InputError, match=reason):
        form_from({**form.to_plain(), **change})


def test_a_form_lacks_nothing_but_the_institution(form):
    content = form.to_plain()
    assert form_from({k: v for k, v in content.items() if k != "institution"}) == form
    del content["runtime_s"], content["seeds"]
    with pytest.raises(InputError, match="lacks seeds, runtime_s"):
        form_from(content)
    with pytest.raises(InputError, match="holds a list"):
        form_from([content])


def test_forms_come_from_strangers_too(tmp_path, form):
    path = tmp_path / f"{ID}.json"
    with pytest.raises(InputError, match="could not be read"):
        read_form(path)
    for text, reason in (
        ("[" * 30000, "not valid JSON"),
        ("9" * 5000, "not valid JSON"),  # more digits than Python turns into a number
        ("{", "not valid JSON"),
        ("x" * 70000, "at most 65536 bytes"),
        ("[]", "one JSON object"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=reason):
            read_form(path)
    (tmp_path / "link.json").symlink_to(path)
    with pytest.raises(InputError, match="no plain file"):
        read_form(tmp_path / "link.json")


def test_shape_of_the_samples_is_no_cube():
    assert len(set(SHAPE)) == 3
