"""Several truths of one scan."""

import pytest
import torch

from qsmdl.challenge.conventions import CONVENTIONS, convention_of, read_truths, truths_by_convention
from qsmdl.challenge.metrics import score
from qsmdl.data.recipe import Recipe, draw_volume, render_volume, volume_seed
from qsmdl.errors import InputError
from qsmdl.io.rc2 import write_release
from qsmdl.scan import Geometry, Truth

RECIPE = Recipe(voxel_size_mm=(6.0, 6.0), peak_snr=(100.0, 100.0))


@pytest.fixture(scope="module")
def drawn():
    params = draw_volume(RECIPE, volume_seed("test", 3, 0), contrast="sim2")
    return truths_by_convention(RECIPE, params), render_volume(RECIPE, params)


def test_one_scan_three_truths(drawn):
    truths, (scan, truth) = drawn
    assert tuple(truths) == CONVENTIONS == ("unrung", "crop", "cell")
    assert torch.equal(truths["unrung"].chi_ppm, truth.chi_ppm)
    for other in truths.values():
        assert torch.equal(other.labels, truth.labels)
        assert torch.equal(other.mask, scan.mask)
        assert other.geometry.shape == scan.geometry.shape
        assert float(other.chi_ppm[~scan.mask].abs().max()) == 0
    assert len({float(t.chi_ppm.sum()) for t in truths.values()}) == 3


def test_the_convention_alone_moves_the_nrmse(drawn):
    truths, (_, truth) = drawn
    recon = truth.chi_ppm.numpy()
    found = {name: score(recon, t.chi_ppm, t.mask, t.labels)["rmse"] for name, t in truths.items()}
    assert found["unrung"] == 0
    assert min(found["crop"], found["cell"]) > 10


def test_truths_beside_a_release(drawn, tmp_path):
    truths, (scan, truth) = drawn
    write_release(tmp_path / "Sim2", scan, truth, conventions={"crop": truths["crop"], "cell": truths["cell"]})
    assert sorted(p.name for p in (tmp_path / "Sim2" / "GT").iterdir()) == [f"{s}.nii.gz" for s in ("Chi", "Chi_cell", "Chi_crop", "Segmentation")]
    found = read_truths(tmp_path / "Sim2")
    assert tuple(found) == ("release", "crop", "cell")
    for name, expected in {"release": truth, "crop": truths["crop"], "cell": truths["cell"]}.items():
        assert torch.equal(found[name].chi_ppm, expected.chi_ppm)
        assert torch.equal(found[name].labels, truth.labels)
    write_release(tmp_path / "plain", scan, truth)
    assert tuple(read_truths(tmp_path / "plain")) == ("release",)


def test_a_convention_on_another_grid_is_refused(drawn, tmp_path):
    truths, (scan, truth) = drawn
    shape = (5, 6, 7)
    other = Truth(Geometry(shape), torch.zeros(shape), torch.ones(shape, dtype=torch.uint8), torch.ones(shape, dtype=torch.bool))
    with pytest.raises(InputError, match="both must lie on one grid"):
        write_release(tmp_path / "Sim2", scan, truth, conventions={"crop": other})
    assert not (tmp_path / "Sim2").exists()
    write_release(tmp_path / "Sim2", scan, truth, conventions={"crop": truths["crop"]})
    write_release(tmp_path / "blind", scan)
    with pytest.raises(InputError, match="has no truth"):
        read_truths(tmp_path / "blind")


@pytest.mark.parametrize(
    ("name", "convention"),
    [("Chi.nii.gz", "release"), ("Chi_crop.nii.gz", "crop"), ("GT/Chi_cell.nii", "cell"), ("Chi_unrung.nii", "unrung"), ("mine.nii", "release")],
)
def test_file_names_tell_the_convention(name, convention):
    assert convention_of(name) == convention
