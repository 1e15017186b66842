"""Releases at 5 mm in both of the challenge's layouts. The head is too coarse for its calcification, so one is drawn into the labels and the map."""

import dataclasses
import shutil

from qsmdl.io.rc2 import write_release
from qsmdl.scan import LABELS

BOX = (slice(14, 16), slice(22, 25), slice(24, 26))
STAGE_1 = ("Sim1", "Sim2")
STAGE_2 = ("DatasetsStep2/Sim1Snr1", "DatasetsStep2/Sim1Snr2", "DatasetsStep2/Sim2Snr1", "DatasetsStep2/Sim2Snr2")


def with_calcification(truth):
    labels, chi = truth.labels.clone(), truth.chi_ppm.clone()
    labels[BOX], chi[BOX] = LABELS["calcification"], -0.5
    return dataclasses.replace(truth, labels=labels, chi_ppm=chi)


def write_scans(root, sample, names, *, truth=True):
    """One folder each; scans named Sim2 get a calcification, higher noise levels another field of noise (the magnitude, scaled)."""
    scan, plain = sample
    for name in names:
        known = with_calcification(plain) if "Sim2" in name else plain
        scaled = dataclasses.replace(scan, magnitude=scan.magnitude * (1 + name.count("Snr2")))
        write_release(root / name, scaled, known if truth else None)
    return root


def as_siblings(root):
    """Sim2/GT becomes Sim2GT, the second form of the release."""
    for place in list(root.rglob("GT")):
        shutil.move(place, place.parent.with_name(place.parent.name + "GT"))
    return root
