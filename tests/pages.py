"""A run's folder as evaluate.py leaves it, with maps that differ, and a reader of what is made of it, for tests of pages."""

import base64
import gzip
import json
from dataclasses import replace
from html.parser import HTMLParser

import nibabel as nib
import numpy as np

from qsmdl.challenge.kept_truth import keep_truth
from qsmdl.challenge.metrics import score
from qsmdl.challenge.run import Case
from qsmdl.io.nifti import write_volume
from qsmdl.physics.fieldmap import fit_field
from qsmdl.report.figures import default_slices
from qsmdl.scan import LABELS

METHODS = ("tkd", "tv", "fine")
HOSTILE = ("<img src=x onerror=alert(1)>", "<!--<script>alert(2)", "\"'>{{7*7}} & co")


def maps_of(truth, methods, seed=0):
    """One map per method: the truth, weakened, with noise of its own."""
    noise = np.random.default_rng(seed)
    chi, mask = truth.chi_ppm.numpy(), truth.mask.numpy()
    return {m: ((1 - 0.1 * i) * chi + 0.01 * (i + 1) * noise.standard_normal(chi.shape)).astype(np.float32) * mask for i, m in enumerate(methods)}


def make_run(folder, sample, *, methods=METHODS, scans=("Sim1", "Sim2"), truth=True):
    """Writes rows.json, maps/, truth/ and .hydra/ and returns scan -> method -> map."""
    scan, known = sample
    rows, maps = [], {}
    labels = known.labels.clone()
    labels[default_slices(known.mask.numpy())] = LABELS["calcification"]  # smaller than a voxel of 5 mm, and so lost
    known = replace(known, labels=labels)
    for number, name in enumerate(scans):
        maps[name] = maps_of(known, methods, seed=number)
        for method, chi in maps[name].items():
            geometry = scan.geometry
            write_volume(folder / "maps" / f"{name}_{method}.nii.gz", chi, affine=geometry.affine, voxel_size_mm=geometry.voxel_size_mm)
            metrics = score(chi, known.chi_ppm.numpy(), known.mask.numpy(), known.labels.numpy()) if truth else {}
            row = {"method": method, "scan": name, "metrics": metrics, "seconds": 1.5, "peak_bytes": 2**30, "seed": 7, "stopped": "max steps"}
            rows.append(row | {"kind": "iterative", "attested": None, "dialect": "rc2", "convention": "release"})
        if truth:
            keep_truth(folder, Case(name, fit_field(scan), replace(scan, name=name), known))
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "config.yaml").write_text("seed: 7\nname: '</pre><script>alert(3)</script>'\n")
    return maps


class Reader(HTMLParser):
    """Elements with their attributes, the text of scripts by id, and the text between tags."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.words, self._script = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append([dict(attributes), ""])
            self._script = self.scripts[-1]

    def handle_endtag(self, tag):
        if tag == "script":
            self._script = None

    def handle_data(self, data):
        if self._script is not None:
            self._script[1] += data
        else:
            self.words.append(data)

    def script(self, name):
        return next(text for attributes, text in self.scripts if attributes.get("id") == name)

    @property
    def data(self):
        return json.loads(self.script("report-data"))

    def volume(self, name):
        return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(self.script(name).strip(), validate=True)))
