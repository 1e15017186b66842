import math

import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.physics.signal import add_noise, multi_echo_signal
from qsmdl.units import hz_from_ppm, hz_per_ppm, ppm_from_hz, ppm_from_rad, rad_from_ppm, rad_per_ppm

TIMES = (0.004, 0.012)
PROTOCOL = {"echo_times_s": TIMES, "repetition_time_s": 0.05, "flip_angle_deg": 15.0, "b0_tesla": 7.0}


def maps(value):
    return torch.full((2, 3, 4), value, dtype=torch.float64)


def test_units_are_golden():
    assert hz_per_ppm(7.0) == pytest.approx(298.04, abs=0.005)
    assert hz_per_ppm(3.0) == pytest.approx(127.73, abs=0.005)
    assert rad_per_ppm(7.0, 0.004) == pytest.approx(7.4906, abs=1e-4)
    assert ppm_from_hz(hz_from_ppm(0.3, 3.0), 3.0) == pytest.approx(0.3)
    assert ppm_from_rad(rad_from_ppm(0.3, 3.0, 0.01), 3.0, 0.01) == pytest.approx(0.3)


def test_signal_equals_the_formula():
    signal = multi_echo_signal(maps(0.1), maps(2.0), maps(0.8), maps(40.0), **PROTOCOL, phase_offset_rad=0.3)
    e1, a = math.exp(-0.05 * 0.8), math.radians(15)
    for echo, te in zip(signal, TIMES, strict=True):
        magnitude = 2.0 * math.sin(a) * (1 - e1) / (1 - math.cos(a) * e1) * math.exp(-te * 40)
        phase = 0.3 + 2 * math.pi * 42.577 * 7 * te * 0.1
        expected = complex(magnitude * math.cos(phase), magnitude * math.sin(phase))
        assert abs(complex(echo[0, 0, 0]) - expected) < 1e-12


def test_a_paramagnetic_blob_turns_the_phase_forward():
    signal = multi_echo_signal(maps(0.05), maps(1.0), maps(1.0), maps(20.0), **PROTOCOL)
    assert float(signal[0].angle().min()) > 0


def test_signal_is_differentiable_in_every_map():
    values = [torch.rand(2, 2, 2, dtype=torch.float64) + 0.5 for _ in range(4)]
    for v in values:
        v.requires_grad_()
    assert torch.autograd.gradcheck(lambda *m: torch.view_as_real(multi_echo_signal(*m, **PROTOCOL)), values)


def test_noise_has_the_stated_standard_deviation_and_is_seeded():
    signal = torch.zeros(4, 20, 21, 22, dtype=torch.complex64)
    noise = add_noise(signal, 0.3, torch.Generator().manual_seed(1))
    assert float(noise.real.std()) == pytest.approx(0.3, rel=0.01)
    assert float(noise.imag.std()) == pytest.approx(0.3, rel=0.01)
    assert torch.equal(noise, add_noise(signal, 0.3, torch.Generator().manual_seed(1)))
    assert not torch.equal(noise, add_noise(signal, 0.3, torch.Generator().manual_seed(2)))


@pytest.mark.parametrize(("change", "message"), [({"repetition_time_s": 500.0}, "ms"), ({"flip_angle_deg": 0.0}, "flip_angle_deg")])
def test_wrong_protocols_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        multi_echo_signal(maps(0.1), maps(1.0), maps(1.0), maps(20.0), **(PROTOCOL | change))


def test_negative_noise_is_refused():
    with pytest.raises(InputError, match="sigma"):
        add_noise(torch.zeros(1, 2, 2, 2, dtype=torch.complex64), -1.0, torch.Generator())
