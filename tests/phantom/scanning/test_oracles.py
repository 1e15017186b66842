"""Simulation and unringing against programs by others: qsm-forward 0.32 and dipy 1.12.1, neither of which is a dependency.

Both run in an interpreter of their own, named by the environment variable QSMDL_ORACLE_PYTHON; `python -m venv X` and `X/bin/pip install
qsm-forward==0.32` bring both. Grids have isotropic voxels, since qsm-forward's kernel swaps the first two voxel sizes.
"""

import math
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from qsmdl.phantom.anatomy.head import draw_head, render_head
from qsmdl.phantom.scanning.acquire import Acquisition, acquire
from qsmdl.phantom.scanning.downsample import cell_average
from qsmdl.physics.dipole import Dipole
from qsmdl.physics.fourier import crop_kspace
from qsmdl.physics.unring import unring
from qsmdl.scan import Geometry, Phantom
from qsmdl.units import GAMMA_MHZ_PER_TESLA

pytestmark = pytest.mark.slow
OBLIQUE = (0.36, 0.48, 0.8)
THEIR_GAMMA = 42.58


def _run(code: str, folder: Path, **arrays: np.ndarray) -> dict[str, np.ndarray]:
    """Run code in the oracle's interpreter: arrays become variables there, and the dict `out` that it fills comes back."""
    python = shutil.which(os.environ.get("QSMDL_ORACLE_PYTHON", ""))
    if python is None:
        pytest.skip("QSMDL_ORACLE_PYTHON names no interpreter with qsm-forward 0.32 and dipy")
    np.savez(folder / "in.npz", **arrays)
    script = f"import numpy as np\nglobals().update(np.load('in.npz'))\nout = {{}}\n{code}\nnp.savez('out.npz', **out)\n"
    subprocess.run([python, "-c", script], cwd=folder, check=True, timeout=600)
    with np.load(folder / "out.npz") as made:
        return dict(made)


def _head(b0_direction: tuple[float, float, float]) -> Phantom:
    geometry = Geometry((50, 62, 60), (3.28, 3.28, 3.28), b0_direction, 7.0)
    return render_head(draw_head(4, contrast="sim2"), geometry)


@pytest.mark.parametrize("b0_direction", [(0.0, 0.0, 1.0), OBLIQUE])
def test_the_field_is_that_of_qsm_forward(tmp_path: Path, b0_direction: tuple[float, float, float]) -> None:
    """Both convolve on a doubled grid. On it their kernel is not averaged over k and -k at the Nyquist planes and not 0 at k = 0, which a mean inside
    the mask takes out.
    """
    phantom = _head(b0_direction)
    code = "import qsm_forward as q\nout['field'] = q.generate_field(chi, mask=mask, voxel_size=[3.28] * 3, B0_dir=list(b0))"
    # Their kernel's axes are those of numpy's meshgrid with the first two swapped twice: direction and volume agree for isotropic voxels.
    theirs = _run(code, tmp_path, chi=phantom.chi_ppm.double().numpy(), mask=phantom.mask.numpy(), b0=np.array(b0_direction))["field"]
    geometry = phantom.geometry
    ours = Dipole(geometry.shape, geometry.voxel_size_mm, b0_direction, fft_shape=[2 * n for n in geometry.shape])(phantom.chi_ppm)
    ours = (ours - ours[phantom.mask].mean())[phantom.mask].double()
    difference = ours - torch.from_numpy(theirs)[phantom.mask]
    assert float(difference.square().mean().sqrt()) < 0.01 * float(ours.square().mean().sqrt())


def test_the_signal_and_its_crop_are_those_of_qsm_forward(tmp_path: Path) -> None:
    """Noiseless complex echoes, fine and cropped; they count 42.58 MHz/T where qsmdl has 42.577, which the field makes up for."""
    phantom = _head((0.0, 0.0, 1.0))
    geometry, shape = phantom.geometry, (32, 40, 38)
    field = Dipole.of(geometry, 2.0)(phantom.chi_ppm)
    code = """
import qsm_forward as q
for echo, te in enumerate((0.004, 0.028)):
    fine = q.generate_signal(field, B0=7, TR=0.05, TE=te, flip_angle=15, R1=r1, R2star=r2, M0=m0)
    out[f"fine{echo}"], out[f"coarse{echo}"] = fine, q.crop_kspace(fine, (32, 40, 38))
"""
    scaled = field.double().numpy() * GAMMA_MHZ_PER_TESLA / THEIR_GAMMA
    arrays = {"r1": phantom.r1_per_s, "r2": phantom.r2star_per_s, "m0": phantom.m0 * phantom.mask}
    theirs = _run(code, tmp_path, field=scaled, **{name: values.double().numpy() for name, values in arrays.items()})
    acquisition = Acquisition(echo_times_s=(0.004, 0.028), peak_snr=math.inf, shape=shape)
    scan, _ = acquire(phantom, acquisition, torch.Generator(), truth="crop", complete=False)
    for echo in range(2):
        measured = torch.polar(scan.magnitude[echo], scan.phase_rad[echo])
        expected = torch.from_numpy(theirs[f"coarse{echo}"])
        # qsmdl zeroes the signal more than two voxels outside the mask, and its field comes from a faster convolution.
        difference = (measured - expected)[scan.mask]
        assert float(difference.abs().square().mean().sqrt()) < 0.01 * float(expected[scan.mask].abs().square().mean().sqrt())


def _boxes(shape: tuple[int, int, int]) -> torch.Tensor:
    """Boxes and a ball of several values, as sharp as the grid allows."""
    x, y, z = (torch.arange(n) - n / 2 for n in shape)
    volume = torch.zeros(shape)
    volume[14:62, 18:70, 10:58] = 0.02
    volume[22:40, 24:45, 18:50] = 0.15
    volume[44:47, 30:60, 20:50] = -0.2
    volume[((x - 8)[:, None, None] ** 2 + (y - 8)[:, None] ** 2 + z**2) < 90] = -1.0
    return volume


def test_unringing_agrees_with_dipy(tmp_path: Path) -> None:
    """dipy's `gibbs_removal` (Kellner et al. 2016, Neto Henriques 2018) works on 2-D slices and is applied twice about different axes, as qsm-forward
    does; qsmdl's along each axis of the volume. Both must come closer to the object than the crop, and about equally close. dipy returns absolute
    values, so the volume is lifted above 0 for it.
    """
    fine, coarse = (80, 84, 72), (40, 42, 36)
    exact = _boxes(fine)
    ringing = crop_kspace(exact, coarse).real.contiguous()
    code = "from dipy.denoise.gibbs import gibbs_removal as g\nout['v'] = g(g(v + 2, slice_axis=2), slice_axis=1) - 2"
    theirs = torch.from_numpy(_run(code, tmp_path, v=ringing.double().numpy())["v"]).float()
    ours, aim = unring(ringing), cell_average(exact, coarse)
    error = {name: float((v - aim).square().mean().sqrt()) for name, v in (("crop", ringing), ("dipy", theirs), ("qsmdl", ours))}
    assert error["qsmdl"] < 0.9 * error["crop"]
    assert error["qsmdl"] < 1.15 * error["dipy"]
    # Where the object is flat only ringing is left to differ.
    inside = torch.nn.functional.max_pool3d(exact[None, None], 9, 1, 4) + torch.nn.functional.max_pool3d(-exact[None, None], 9, 1, 4)
    flat = cell_average((inside[0, 0] == 0).float(), coarse) == 1
    left = {name: float((v - aim)[flat].abs().mean()) for name, v in (("crop", ringing), ("dipy", theirs), ("qsmdl", ours))}
    assert left["qsmdl"] < 0.5 * left["crop"]
    assert left["qsmdl"] < 1.3 * left["dipy"]
    assert float((ours - theirs).square().mean().sqrt()) < error["crop"]
