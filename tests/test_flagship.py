"""The flagship's methods: networks under the symmetries of the physics, on a tiny scan."""

import dataclasses
import json
import logging

import pytest
import torch
from small_flagship import NETWORK, save

from qsmdl.about import About
from qsmdl.adaptation.fidelity import echo_fidelity, field_fidelity
from qsmdl.adaptation.fine import FineInterrupted, FineSettings
from qsmdl.challenge.guard import admit
from qsmdl.cli.build import method_from_command_line, methods_with_weights, runnable_methods
from qsmdl.cli.main import main
from qsmdl.data.inputs import Prior, prepare_inputs
from qsmdl.data.symmetry import Symmetry
from qsmdl.errors import InputError
from qsmdl.io.weights import load_weights
from qsmdl.methods import SHIPPED_WEIGHTS, Method, fine, flagship, flagship_fine, load_network, unet
from qsmdl.methods.fitting import Fit
from qsmdl.methods.weights import shipped_weights
from qsmdl.networks.build import build_network
from qsmdl.scan import ChiMap
from qsmdl.solvers import large_scales

FIT = {"n_steps": 4, "learning_rate": 5e-3, "precision": "float32"}
NARROW = {"voxel_size_mm": [1.0, 1.8], "b0_tesla": 7.0, "peak_snr": [500.0, 1000.0], "chi_ppm": [-0.01, 0.01]}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save(tmp_path_factory.mktemp("weights") / "small.safetensors")


@pytest.fixture
def no_flagship(tmp_path, monkeypatch):
    """A version that comes without the flagship's weights, as it stands or not."""
    monkeypatch.setattr("qsmdl.methods.weights.FLAGSHIP_WEIGHTS", tmp_path / "flagship.safetensors")


@pytest.fixture(autouse=True)
def believed(monkeypatch):
    """On heads of 5 mm, with networks that were not trained, smooth sources explain little: a doubt that is not what is tested here."""
    monkeypatch.setattr(large_scales, "MOST_UNEXPLAINED", float("inf"))


def test_the_map_is_the_mean_of_the_symmetries_and_its_uncertainty_their_spread(sample_field, weights):
    names = ("identity", "flip_x", "flip_y+sign")
    chi = flagship(sample_field, checkpoint=weights, symmetries=names, final_solve=False)
    network, prior, _ = load_network(weights)
    inputs = prepare_inputs(sample_field, prior)
    with torch.no_grad():
        maps = torch.stack([s.restore(network(*s(inputs).arguments))[0, 0] for s in map(Symmetry.of, names)])
    torch.testing.assert_close(chi.chi_ppm[inputs.box], maps.mean(0))
    torch.testing.assert_close(chi.uncertainty_ppm[inputs.box], maps.std(0), rtol=1e-3, atol=1e-7)
    assert float(chi.uncertainty_ppm[sample_field.mask].mean()) > 1e-4
    assert not chi.uncertainty_ppm[~sample_field.mask].any()
    assert (chi.outcome.n_steps, chi.outcome.stopped) == (3, "mean of 3 passes")


def test_one_symmetry_is_the_network_itself(sample_field, weights):
    chi = flagship(sample_field, checkpoint=weights, symmetries=("identity",), uncertainty=False, final_solve=False)
    assert torch.equal(chi.chi_ppm, unet(sample_field, checkpoint=weights).chi_ppm)
    assert chi.uncertainty_ppm is None
    with pytest.raises(InputError, match="one map has no spread"):
        flagship(sample_field, checkpoint=weights, symmetries=("identity",))
    with pytest.raises(InputError, match="no symmetry 'flip'"):
        flagship(sample_field, checkpoint=weights, symmetries=("flip",))


@pytest.mark.parametrize("name", ["flagship", "flagship_fine"])
def test_run_twice_it_gives_the_same_map(name, sample, sample_field, weights):
    settings = {"flagship": {}, "flagship_fine": {**FIT, "prior_weight": 0.01, "trained": "last"}}[name]
    function = {"flagship": flagship, "flagship_fine": flagship_fine}[name]
    first, second = (Method(name, function, checkpoint=str(weights), **settings)(sample_field, sample[0]) for _ in range(2))
    assert float((first.chi_ppm - second.chi_ppm).abs().max()) <= 1e-6
    assert float((first.uncertainty_ppm - second.uncertainty_ppm).abs().max()) <= 1e-6
    assert float(first.chi_ppm.abs().max()) > 0.01


def test_the_fit_goes_before_the_mean(sample, sample_field, weights):
    plain = flagship(sample_field, checkpoint=weights, final_solve=False)
    fitted = flagship_fine(sample_field, scan=sample[0], checkpoint=weights, **FIT | {"n_steps": 16})
    assert fitted.outcome.n_steps == 16
    assert fitted.outcome.stopped == "max steps (16)"
    assert fitted.uncertainty_ppm is not None
    again = flagship_fine(sample_field, scan=sample[0], checkpoint=weights, final_solve=False, **FIT | {"n_steps": 1, "learning_rate": 1e-9})
    torch.testing.assert_close(again.chi_ppm, plain.chi_ppm, atol=1e-5, rtol=1e-3)
    assert fitted.outcome.residual < 0.99 * again.outcome.residual  # of the means, by the measured echoes


@pytest.mark.parametrize("kind", ["echoes", "field"])
def test_ringing_that_the_start_lost_counts_as_explained_in_the_fit(kind, sample, sample_field):
    """A map like its start explains what total variation explained, and is not asked for the ringing back."""
    network, prior = build_network(NETWORK), Prior(start="tv")
    fit = Fit.of((network, prior, {}), sample_field, sample[0], kind, FineSettings())
    start, ringing = fit.inputs.prior_ppm[:, :1], fit.inputs.prior_ppm[:, 1:2]
    assert float(ringing.abs().max()) > 1e-3
    box, geometry = fit.inputs.box, fit.inputs.geometry
    bare = echo_fidelity(sample[0], sample_field, box, geometry) if kind == "echoes" else field_fidelity(sample_field, box, geometry)
    torch.testing.assert_close(fit.fidelity(start).loss, bare(start + ringing).loss, rtol=1e-3, atol=0)
    assert float(fit.fidelity(start).loss) < 0.9 * float(bare(start).loss)
    assert fit.identity["ringing"]
    assert not Fit.of((network, Prior(), {}), sample_field, sample[0], kind, FineSettings()).identity["ringing"]


def test_an_interrupted_fit_of_the_flagship_goes_on(tmp_path, sample, sample_field, weights, monkeypatch):
    class Stopped:
        requested = False

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    stopped, path = Stopped(), tmp_path / "state.safetensors"
    monkeypatch.setattr("qsmdl.adaptation.fine.DeferredInterrupt", lambda: stopped)

    def stop(step, value):
        stopped.requested = step == 2

    settings = {"scan": sample[0], "checkpoint": weights, "symmetries": ("identity", "sign"), **FIT}
    whole = flagship_fine(sample_field, **settings)
    with pytest.raises(FineInterrupted):
        flagship_fine(sample_field, **settings, on_step=stop, state_path=path)
    stopped.requested = False
    with pytest.raises(InputError, match=r"another fit \(other symmetries\)"):
        flagship_fine(sample_field, **settings | {"symmetries": ("sign", "identity")}, state_path=path)
    resumed = flagship_fine(sample_field, **settings, state_path=path)
    assert torch.equal(resumed.chi_ppm, whole.chi_ppm)
    assert torch.equal(resumed.uncertainty_ppm, whole.uncertainty_ppm)
    assert not path.exists()


@pytest.mark.usefixtures("no_flagship")
@pytest.mark.parametrize("name", ["flagship", "flagship_fine"])
def test_without_its_weights_it_says_so(name, sample_field):
    method = method_from_command_line(name)
    for use in (lambda: method(sample_field), lambda: method.weights_path, lambda: admit([method])):
        with pytest.raises(InputError, match=r"weights of the flagship network .*do not come with this version.*checkpoint=PATH"):
            use()
    assert name not in runnable_methods()
    assert name not in methods_with_weights()
    assert "unet" in methods_with_weights()


def test_each_method_names_the_weights_that_it_runs(weights, monkeypatch):
    monkeypatch.setattr("qsmdl.methods.weights.FLAGSHIP_WEIGHTS", weights)
    for function, expected in ((unet, SHIPPED_WEIGHTS), (fine, SHIPPED_WEIGHTS), (flagship, weights), (flagship_fine, weights)):
        assert Method("one", function).weights_path == expected
        assert Method("one", function, checkpoint="other.safetensors").weights_path.name == "other.safetensors"
    assert shipped_weights("flagship") == weights
    with pytest.raises(InputError, match="weights is 'slow'"):
        About(weights="slow")


def test_the_guard_looks_at_its_record(tmp_path, weights):
    for name in ("flagship", "flagship_fine"):
        own = method_from_command_line(name, [f"checkpoint='{weights}'"])
        with pytest.raises(InputError, match=rf"{name} may not enter .* no record"):
            admit([own])
        assert admit([own], allow_unattested=True).attested == {name: False}
        shipped = method_from_command_line(name, [f"checkpoint='{SHIPPED_WEIGHTS}'"])
        assert admit([shipped]).attested == {name: True}


@pytest.mark.parametrize("function", [unet, fine, flagship, flagship_fine])
def test_a_scan_outside_of_the_envelope_is_told(function, tmp_path, sample, sample_field, caplog):
    path = save(tmp_path / "narrow.safetensors", envelope=NARROW)
    settings = FIT if function in (fine, flagship_fine) else {}
    with caplog.at_level(logging.WARNING, logger="qsmdl"):
        chi = function(sample_field, scan=sample[0], checkpoint=path, **settings)
    assert [doubt.split(",")[0].split(" are")[0].rsplit(" ", 1)[0][:12] for doubt in chi.outcome.doubts] == [
        "voxels have ", "the peak SNR", "the map reac"
    ]  # fmt: skip
    for doubt in chi.outcome.doubts:
        assert f"{sample_field.name}: {doubt}" in caplog.text
    assert " mm, but the network was trained with 1 to 1.8 mm" in caplog.text


def test_a_scan_within_the_envelope_raises_no_doubt(tmp_path, sample, sample_field, caplog):
    wide = {"voxel_size_mm": [1.0, 6.0], "b0_tesla": [3.0, 7.0], "peak_snr": [30.0, 1000.0], "chi_ppm": [-4.0, 4.0]}
    path = save(tmp_path / "wide.safetensors", envelope=wide)
    assert flagship(sample_field, scan=sample[0], checkpoint=path).outcome.doubts == ()
    assert not caplog.text


def test_cards_of_older_versions_still_load(tmp_path, sample_field):
    """They have neither anisotropy nor chi, and a single field strength."""
    older = {"b0_tesla": 7.0, "contrast": "random", "max_tilt_deg": 30.0, "peak_snr": [50.0, 1000.0], "voxel_size_mm": [1.0, 1.8]}
    (doubt,) = unet(sample_field, checkpoint=save(tmp_path / "older.safetensors", envelope=older)).outcome.doubts
    assert "trained with 1 to 1.8 mm" in doubt


def test_the_quick_weights_tell_their_envelope(sample_field):
    assert {"anisotropy", "chi_ppm"} < load_weights(SHIPPED_WEIGHTS)[1]["envelope"].keys()
    assert any("trained with 1 to 1.8 mm" in doubt for doubt in unet(sample_field).outcome.doubts)


def test_an_uncertainty_is_a_standard_deviation_of_every_voxel(sample_field, weights):
    chi = unet(sample_field, checkpoint=weights)
    for wrong, message in ((-chi.mask.float(), "at least 0"), (chi.mask[:-1].float(), "shape"), (chi.mask * float("nan"), "NaN")):
        with pytest.raises(InputError, match=message):
            ChiMap(chi.geometry, chi.chi_ppm, chi.mask, chi.outcome, wrong)


def test_unring_leaves_the_uncertainty(sample_field, weights):
    method = Method("flagship", flagship, checkpoint=str(weights))
    plain, smooth = (m(sample_field) for m in (method, method.with_settings({"unring": True})))
    assert not torch.equal(plain.chi_ppm, smooth.chi_ppm)
    assert torch.equal(plain.uncertainty_ppm, smooth.uncertainty_ppm)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    main(["simulate", str(folder / "out"), "--seed", "3", "--voxel-size", "6", "--contrast", "sim2", "--no-truth"])
    return folder / "out" / "Sim2"


def refused(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_the_command_writes_the_uncertainty_beside_the_map(release, tmp_path, weights, capsys):
    import nibabel as nib
    import numpy as np

    target = tmp_path / "chi.nii.gz"
    words = ["reconstruct", release, "--method", "flagship", "--checkpoint", weights, "-o", target, "symmetries=[identity,flip_x+sign]"]
    main([str(word) for word in words])
    assert {p.name for p in tmp_path.iterdir()} == {"chi.nii.gz", "chi.json", "chi_uncertainty.nii.gz"}
    told = json.loads((tmp_path / "chi.json").read_text())
    assert told["uncertainty"] == "chi_uncertainty.nii.gz"
    assert told["settings"]["symmetries"] == ["identity", "flip_x+sign"]
    assert told["doubts"] == []
    spread, chi = (nib.load(tmp_path / name) for name in ("chi_uncertainty.nii.gz", "chi.nii.gz"))
    assert np.array_equal(spread.affine, chi.affine)
    inside = nib.load(release / "MaskBrainExtracted.nii.gz").get_fdata() > 0
    assert (spread.get_fdata()[inside] >= 0).all()
    assert spread.get_fdata()[inside].mean() > 1e-4
    assert not spread.get_fdata()[~inside].any()
    # nothing is overwritten, not even the uncertainty alone
    target.unlink()
    (tmp_path / "chi.json").unlink()
    before = (tmp_path / "chi_uncertainty.nii.gz").read_bytes()
    assert "chi_uncertainty.nii.gz exists" in refused(capsys, *words)
    assert [p.name for p in tmp_path.iterdir()] == ["chi_uncertainty.nii.gz"]
    assert (tmp_path / "chi_uncertainty.nii.gz").read_bytes() == before
    main([*map(str, words), "--overwrite", "uncertainty=false"])
    assert json.loads((tmp_path / "chi.json").read_text())["uncertainty"] is None


def test_flagship_plus_fine_is_the_same_as_flagship_fine(release, tmp_path, weights, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["reconstruct", str(release), "--method", "flagship+fine", "--checkpoint", str(weights), "n_steps=2", "symmetries=[identity,sign]"])
    assert {p.name for p in tmp_path.iterdir()} == {
        "Sim2_flagship_fine.nii.gz", "Sim2_flagship_fine.json", "Sim2_flagship_fine_uncertainty.nii.gz"
    }  # fmt: skip
    told = json.loads((tmp_path / "Sim2_flagship_fine.json").read_text())
    assert told["method"] == "flagship_fine"
    assert told["n_steps"] == 2


def test_help_tells_the_other_name(capsys):
    with pytest.raises(SystemExit):
        main(["reconstruct", "--help"])
    assert "flagship+fine" in capsys.readouterr().out


@pytest.mark.usefixtures("no_flagship")
def test_missing_weights_are_told_before_the_scan_is_read(tmp_path, capsys):
    error = refused(capsys, "reconstruct", tmp_path, "--method", "flagship+fine", "-o", tmp_path / "chi.nii")
    assert "do not come with this version" in error
    assert not list(tmp_path.iterdir())


def test_doubts_are_printed_and_written(release, tmp_path, caplog):
    path = save(tmp_path / "narrow.safetensors", envelope=NARROW)
    main(["reconstruct", str(release), "--method", "unet", "--checkpoint", str(path), "-o", str(tmp_path / "chi.nii")])
    told = json.loads((tmp_path / "chi.json").read_text())
    assert any(" mm, but the network was trained with 1 to 1.8 mm" in doubt for doubt in told["doubts"])
    assert all(doubt in caplog.text for doubt in told["doubts"])


def test_settings_can_be_replaced(weights):
    method = Method("flagship", flagship, checkpoint=str(weights))
    assert method.with_settings({"symmetries": ["identity", "sign"]}).settings["symmetries"] == ["identity", "sign"]
    with pytest.raises(InputError, match=r"flagship\.symmetries is 'sign'"):
        method.with_settings({"symmetries": "sign"})
    assert dataclasses.replace(method.about, weights="quick") == About(kind="deep learning", reference=method.about.reference)
