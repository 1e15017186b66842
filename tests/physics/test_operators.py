import math

import pytest
import torch
from analytic import cylinder_field, positions, sphere_field
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_checks import check_operator, dense

from qsmdl.errors import InputError
from qsmdl.physics.derivatives import Gradient, gradient_power, gradient_symbols
from qsmdl.physics.dipole import Dipole, dipole_kernel
from qsmdl.physics.fourier import Pad, RealFFT, crop_kspace, fast_shape, irfft3, rfft3
from qsmdl.scan import Geometry


def volume(shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def fourier_matrices(shape):
    return [torch.exp(-2j * math.pi * torch.outer(torch.arange(n, dtype=torch.float64), torch.arange(n, dtype=torch.float64)) / n) for n in shape]


def dipole_oracle(geometry, fft_shape):
    """The dipole operator as a dense matrix from full Fourier matrices and a kernel written as in the paper, averaged over k and -k."""
    k = torch.stack(
        torch.meshgrid(
            *[torch.fft.fftfreq(n, v, dtype=torch.float64) for n, v in zip(fft_shape, geometry.voxel_size_mm, strict=True)], indexing="ij"
        ),
        -1,
    )
    b = torch.tensor(geometry.b0_direction, dtype=torch.float64)
    kernel = 1 / 3 - (k @ b) ** 2 / (k**2).sum(-1)
    kernel[0, 0, 0] = 0
    mirrored = torch.roll(kernel.flip(0, 1, 2), (1, 1, 1), (0, 1, 2))
    fx, fy, fz = fourier_matrices(fft_shape)
    full = torch.kron(torch.kron(fx, fy), fz)
    n = full.shape[0]
    matrix = (full.conj().T @ (((kernel + mirrored) / 2).flatten()[:, None] * full) / n).real
    keep = torch.zeros(fft_shape, dtype=torch.bool)
    keep[: geometry.shape[0], : geometry.shape[1], : geometry.shape[2]] = True
    index = keep.flatten().nonzero()[:, 0]
    return matrix[index][:, index]


@pytest.mark.parametrize("grow", [(0, 0, 0), (1, 2, 3)])
def test_dipole_passes_the_four_checks(geometry, grow):
    fft_shape = tuple(n + g for n, g in zip(geometry.shape, grow, strict=True))
    operator = Dipole(geometry.shape, geometry.voxel_size_mm, geometry.b0_direction, fft_shape=fft_shape, dtype=torch.float64)
    check_operator(operator, volume(geometry.shape), dipole_oracle(geometry, fft_shape))


@pytest.mark.parametrize("boundary", ["periodic", "neumann"])
def test_gradient_passes_the_four_checks(geometry, boundary):
    shape = geometry.shape
    rows = []
    for axis, (n, h) in enumerate(zip(shape, geometry.voxel_size_mm, strict=True)):
        difference = torch.roll(torch.eye(n, dtype=torch.float64), 1, dims=1) - torch.eye(n, dtype=torch.float64)
        if boundary == "neumann":
            difference[-1] = 0
        parts = [torch.eye(m, dtype=torch.float64) for m in shape]
        parts[axis] = difference / h
        rows.append(torch.kron(torch.kron(parts[0], parts[1]), parts[2]))
    check_operator(Gradient(geometry.voxel_size_mm, boundary), volume(shape), torch.cat(rows))


def test_fourier_pad_and_product_pass_the_four_checks(geometry):
    padded = tuple(n + 2 for n in geometry.shape)
    fft, pad = RealFFT(padded), Pad(geometry.shape, padded)
    fx, fy, fz = fourier_matrices(padded)
    fft_oracle = torch.kron(torch.kron(fx, fy), fz[: padded[2] // 2 + 1])
    check_operator(fft, volume(padded), fft_oracle)
    pad_oracle = dense(lambda u: torch.nn.functional.pad(u, (0, 2, 0, 2, 0, 2)), geometry.shape)
    check_operator(pad, volume(geometry.shape), pad_oracle)
    check_operator(fft @ pad, volume(geometry.shape), fft_oracle @ pad_oracle.to(torch.complex128))


def test_half_and_full_spectrum_agree(geometry):
    x = volume(geometry.shape)
    full = dipole_kernel(geometry.shape, geometry.voxel_size_mm, geometry.b0_direction, half=False, dtype=torch.float64)
    half = dipole_kernel(geometry.shape, geometry.voxel_size_mm, geometry.b0_direction, dtype=torch.float64)
    by_full = torch.fft.ifftn(torch.fft.fftn(x) * full)
    assert by_full.imag.abs().max() < 1e-14
    assert (irfft3(rfft3(x) * half, geometry.shape) - by_full.real).abs().max() < 1e-14


def test_batched_kernels_equal_single_ones(geometry):
    voxels = torch.tensor([geometry.voxel_size_mm, (1.0, 1.0, 2.0)])
    directions = torch.tensor([geometry.b0_direction, (0.0, 0.0, 1.0)])
    batched = dipole_kernel(geometry.shape, voxels, directions)
    assert batched.shape[:2] == (2, 1)
    for i in range(2):
        assert torch.equal(batched[i, 0], dipole_kernel(geometry.shape, voxels[i].tolist(), directions[i].tolist()))
    maps = torch.randn(2, 1, *geometry.shape)
    together = Dipole(geometry.shape, voxels, directions)(maps)
    for i in range(2):
        alone = Dipole(geometry.shape, voxels[i].tolist(), directions[i].tolist())(maps[i, 0])
        assert (together[i, 0] - alone).abs().max() < 1e-6


def test_rotating_chi_and_b0_together_rotates_the_field():
    x = volume((6, 7, 9))
    geometry = Geometry((6, 7, 9), (1.0, 2.0, 3.0), (0.36, -0.48, 0.8))
    turned = Geometry((9, 6, 7), (3.0, 1.0, 2.0), (0.8, 0.36, -0.48))
    field = Dipole.of(geometry, dtype=torch.float64)(x)
    other = Dipole.of(turned, dtype=torch.float64)(x.permute(2, 0, 1))
    assert (field.permute(2, 0, 1) - other).abs().max() < 1e-12


def soft_edge(distance_mm, half_width_mm):
    """1 inside, 0 outside, half a cosine in between. Round sources make the same field outside the edge whatever its profile, and none inside of it;
    a hard edge on voxels would be another, aliased source."""
    return 0.5 - 0.5 * torch.sin((distance_mm / half_width_mm).clamp(-1, 1) * math.pi / 2)


@pytest.mark.parametrize("direction", [(0.0, 0.0, 1.0), (0.36, -0.48, 0.8)])
@pytest.mark.parametrize("voxel", [(1.0, 1.0, 1.0), (1.0, 0.8, 1.25)])
def test_sphere_field_equals_closed_form(direction, voxel):
    shape, radius = (96, 107, 88), 12.0
    position = positions(shape, voxel, (47.0, 53.0, 43.5))
    r = position.norm(dim=-1)
    chi = soft_edge(r - radius, 2 * max(voxel))
    volume_ratio = float(chi.sum()) * math.prod(voxel) / (4 / 3 * math.pi * radius**3)
    field = Dipole(shape, voxel, direction, fft_shape=fast_shape(shape, 2.0), dtype=torch.float64)(chi) / volume_ratio
    truth = sphere_field(position, radius, direction)
    away = ((r - radius).abs() > 2 * max(voxel)) & (r < 34)
    assert float((field - truth)[away].norm() / truth[away].norm()) < 0.02


@pytest.mark.parametrize("direction", [(1.0, 0.0, 0.0), (0.6, 0.0, 0.8), (0.36, -0.48, 0.8)])
def test_cylinder_field_equals_closed_form(direction):
    # Along z the cylinder fills the periodic grid: no padding there, so that it is infinite.
    shape, voxel, radius = (90, 101, 4), (1.0, 0.9, 2.0), 7.0
    position = positions(shape, voxel, (45.0, 50.0, 0.0))
    r = position[..., :2].norm(dim=-1)
    chi = soft_edge(r - radius, 2 * max(voxel[:2]))
    chi = chi * (math.pi * radius**2 / (float(chi[..., 0].sum()) * voxel[0] * voxel[1]))
    field = Dipole(shape, voxel, direction, fft_shape=(360, 400, 4), dtype=torch.float64)(chi)
    truth = cylinder_field(position, radius, 2, direction)
    away = ((r - radius).abs() > 2 * max(voxel[:2])) & (r < 30)
    assert float((field - truth)[away].norm() / truth[away].norm()) < 0.02


def test_padding_removes_the_wrap_around():
    shape = (24, 25, 26)
    chi = torch.zeros(shape, dtype=torch.float64)
    chi[2:5, 12, 12] = 1.0
    exact = Dipole(shape, (1, 1, 1), (0, 0, 1), fft_shape=(96, 100, 104), dtype=torch.float64)(chi)
    errors = [
        float((Dipole(shape, (1, 1, 1), (0, 0, 1), fft_shape=fast_shape(shape, f), dtype=torch.float64)(chi) - exact)[-4:].norm())
        for f in (1, 1.5, 2)
    ]
    assert errors[0] > 5 * errors[1] > 10 * errors[2]


def test_gradient_symbols_are_those_of_the_operator(geometry):
    x = volume(geometry.shape)
    gradient = Gradient(geometry.voxel_size_mm)(x)
    for component, symbol in zip(gradient, gradient_symbols(geometry.shape, geometry.voxel_size_mm, dtype=torch.float64), strict=True):
        assert (irfft3(rfft3(x) * symbol, geometry.shape) - component).abs().max() < 1e-13
    power = gradient_power(geometry.shape, geometry.voxel_size_mm, dtype=torch.float64)
    assert (irfft3(rfft3(x) * power, geometry.shape) - Gradient(geometry.voxel_size_mm).H(gradient)).abs().max() < 1e-12
    assert power[0, 0, 0] == 0


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(3, 14)] * 3), st.tuples(*[st.integers(0, 6)] * 3))
def test_crop_kspace_keeps_smooth_volumes(shape, extra):
    """A wave that the coarse grid can hold is sampled, not changed: same amplitude, same origin, no half-voxel shift."""
    fine = tuple(n + e for n, e in zip(shape, extra, strict=True))

    def wave(grid):
        x, y, z = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) / n for n in grid], indexing="ij")
        return 0.3 + torch.cos(2 * math.pi * x + 0.4) * torch.sin(2 * math.pi * y) + 0.5 * torch.cos(2 * math.pi * (z - y))

    cropped = crop_kspace(wave(fine), shape)
    assert cropped.imag.abs().max() < 1e-12
    assert (cropped.real - wave(shape)).abs().max() < 1e-12


def test_autocast_leaves_the_dipole_in_float32():
    operator = Dipole((8, 9, 10), (1, 1, 1), (0, 0, 1))
    x = torch.randn(1, 1, 8, 9, 10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = operator(x.bfloat16())
        assert inside.dtype == torch.float32
    assert (inside - operator(x.bfloat16().float())).abs().max() == 0


def test_kernels_stay_out_of_checkpoints():
    assert not Dipole((4, 5, 6), (1, 1, 1), (0, 0, 1)).state_dict()
    assert not RealFFT((4, 5, 6)).state_dict()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dipole_kernel((4, 5, 6), (1, 0, 1), (0, 0, 1)), "positive"),
        (lambda: dipole_kernel((4, 5, 6), (1, 1, 1), (0, 1, 1)), "length 1"),
        (lambda: Dipole((4, 5, 6), (1, 1, 1), (0, 0, 1), fft_shape=(4, 4, 6)), "fft_shape"),
        (lambda: Dipole((4, 5, 6), (1, 1, 1), (0, 0, 1))(torch.zeros(4, 5, 7)), "made for volumes"),
        (lambda: fast_shape((4, 5, 6), 0.5), "padding factor"),
        (lambda: Pad((4, 5, 6), (4, 4, 6)), "stay or grow"),
        (lambda: Gradient((1, 1, -1)), "positive"),
        (lambda: Gradient(boundary="mirror"), "periodic"),
        (lambda: crop_kspace(torch.zeros(4, 5, 6), (4, 6, 6)), "as many voxels"),
    ],
)
def test_errors_name_the_rule(make, message):
    with pytest.raises(InputError, match=message):
        make()
