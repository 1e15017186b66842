"""Submissions handed in, with what they are judged against."""

import json

from archive_samples import chi_map, write_truth

from qsmdl.challenge.form import Form
from qsmdl.challenge.submission import SCANS, pack
from qsmdl.cli.main import main
from qsmdl.io.nifti import write_volume

KINDS = ("direct", "iterative", "deep learning")


def make_form(identifier, acronym, kind, stage=1, seeds=()):
    return Form(identifier, stage, f"The method {acronym}", acronym, kind, "all echoes", True, "total variation, L-curve", seeds, 12.5)


def hand_in(folder, n=3, stage=1):
    """n packed submissions, the noise of their maps growing; returns their identifiers."""
    folder.mkdir(exist_ok=True)
    identifiers = []
    for index in range(n):
        identifier = f"SUBMIT{index:04d}"
        maps = {scan: folder / f"{scan}.nii" for scan in SCANS[stage]}
        for scan, path in maps.items():
            write_volume(path, chi_map(scan, seed=index, noise=0.2 + 0.1 * index))
        pack(maps, folder, form=make_form(identifier, f"M{index}", KINDS[index % 3], stage, (index,)))
        for path in maps.values():
            path.unlink()
        identifiers.append(identifier)
    return identifiers


def make_desk(folder):
    """The release, three submissions with their forms apart, and a place for the results."""
    write_truth(folder / "release")
    hand_in(folder / "in")
    (folder / "forms").mkdir()
    for path in (folder / "in").glob("*.json"):
        path.rename(folder / "forms" / path.name)
    return folder


def run(desk, *words):
    command = ["judge", str(desk / "in"), "--truth", str(desk / "release"), "--forms", str(desk / "forms"), "-o", str(desk / "out"), *words]
    main(command)
    return json.loads((desk / "out" / "rows.json").read_text())
