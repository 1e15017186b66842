import json
import logging
import shutil

import nibabel as nib
import numpy as np
import pytest
from refused_commands import fails

from qsmdl.cli.main import main


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A release without a coil's phase and one with it."""
    folder = tmp_path_factory.mktemp("release")
    main(["simulate", str(folder / "out"), "--seed", "3", "--voxel-size", "6", "--contrast", "sim2"])
    clean, scan = folder / "out" / "Sim2", folder / "turned"
    shutil.copytree(clean, scan)
    image = nib.load(scan / "Phase.nii.gz")
    phase = np.angle(np.exp(1j * (image.get_fdata() + 1.5))).astype(np.float32)
    nib.save(nib.Nifti1Image(phase, image.affine), scan / "Phase.nii.gz")
    return clean, scan


def test_reconstruct_warns_and_with_the_flag_mends(folders, tmp_path, caplog):
    maps, notes = {}, {}
    for name, scan, words in (("clean", folders[0], []), ("turned", folders[1], []), ("mended", folders[1], ["--remove-offset"])):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            main(["reconstruct", str(scan), "--method", "tkd", "-o", str(tmp_path / f"{name}.nii"), *words])
        maps[name] = nib.load(tmp_path / f"{name}.nii").get_fdata()
        notes[name] = json.loads((tmp_path / f"{name}.json").read_text())
        assert ("--remove-offset" in caplog.text) == (name == "turned")
        assert any("--remove-offset" in doubt for doubt in notes[name]["doubts"]) == (name == "turned")
        assert notes[name]["phase_offset_removed"] == (name == "mended")
    spread = maps["clean"].std()
    assert (maps["turned"] - maps["clean"]).std() > 0.5 * spread
    assert (maps["mended"] - maps["clean"]).std() < 0.1 * spread


def test_a_field_tells_no_offset(folders, tmp_path, capsys):
    words = ["reconstruct", "--field", folders[0] / "Frequency.nii.gz", "--units", "hz", "--mask", folders[0] / "MaskBrainExtracted.nii.gz"]
    told = fails(capsys, *words, "--method", "tkd", "--remove-offset", "-o", tmp_path / "chi.nii")
    assert "echoes" in told
    assert not (tmp_path / "chi.nii").exists()
