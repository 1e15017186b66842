import base64
import errno
import io
import json
import os

import matplotlib.image
import pytest
from pages import METHODS, make_run

from qsmdl.challenge.ratings import BLIND_PREFIX, DISCREPANCIES, TRUTH_NAME, read_key
from qsmdl.errors import InputError
from qsmdl.report.figures import default_slices
from qsmdl.report.rating_page import write_rating_page


def content_of(path):
    text = path.read_text(encoding="utf-8")
    return text, json.loads(text.split('id="rating-data">')[1].split("</script>")[0])


def pixels(uri):
    return matplotlib.image.imread(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))


@pytest.fixture(scope="module")
def made(tmp_path_factory, sample):
    folder = tmp_path_factory.mktemp("run")
    make_run(folder, sample)
    written = write_rating_page(folder / "rate.html", folder)
    return folder, written, *content_of(written.path)


def test_the_page_holds_no_names_and_the_key_all_of_them(made):
    folder, written, text, content = made
    script = text.split('id="rating-data">')[0] + text.split("</script>")[-1]
    for method in METHODS:
        assert f'"{method}"' not in text
        assert f">{method}<" not in script
    key = read_key(written.key_path)
    assert written.key_path == folder / "rate.key.json"
    assert sorted(key[code] for code in content["maps"]) == sorted([*METHODS, TRUTH_NAME])
    assert sorted(key[code] for code in content["differences"]) == sorted(METHODS)
    assert not set(content["maps"]) & set(content["differences"])  # the code without a difference would be the truth
    assert list(content["maps"]) == sorted(content["maps"])
    assert all(code.startswith(BLIND_PREFIX) for code in key)


def test_all_submissions_look_alike_but_for_their_values(made):
    content = made[3]
    shapes = {tuple(pixels(uri).shape for uri in scans["Sim2"]) for scans in content["maps"].values()}
    assert len(shapes) == 1
    assert {len(scans["Sim1"]) for scans in content["maps"].values()} == {3}
    assert len({scans["Sim1"][0] for scans in content["maps"].values()}) == len(METHODS) + 1
    for scans in content["differences"].values():
        assert set(scans["Sim2"]) == set(DISCREPANCIES)


def test_the_window_is_a_tenth_of_a_ppm(made, sample):
    key, content = read_key(made[1].key_path), made[3]
    code = next(code for code, name in key.items() if name == TRUTH_NAME)
    image = pixels(content["maps"][code]["Sim2"][0])[..., 0]
    truth = sample[1]
    z = default_slices(truth.mask.numpy())[2]
    chi = (truth.chi_ppm * truth.mask).numpy()[:, :, z]
    assert image.min() == pytest.approx((chi.min() + 0.1) / 0.2, abs=0.01)
    assert image.max() == pytest.approx(min((chi.max() + 0.1) / 0.2, 1), abs=0.01)
    assert image[0, 0] == pytest.approx(0.5, abs=0.01)  # outside the mask chi is 0


def test_codes_are_drawn_anew(made, tmp_path):
    again = write_rating_page(tmp_path / "rate.html", made[0])
    assert not set(read_key(again.key_path)) & set(read_key(made[1].key_path))


def test_a_key_is_never_lost_by_accident(made, tmp_path):
    folder = made[0]
    (tmp_path / "rate.key.json").write_text("{}")
    with pytest.raises(InputError, match=r"rate\.key\.json exists already"):
        write_rating_page(tmp_path / "rate.html", folder)
    assert not (tmp_path / "rate.html").exists()


def test_a_key_outlives_a_page_that_cannot_be_replaced(made, tmp_path, monkeypatch):
    def no_space(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    written = write_rating_page(tmp_path / "rate.html", made[0])
    before = written.path.read_bytes(), written.key_path.read_bytes()
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(InputError, match="No space left"):
        write_rating_page(tmp_path / "rate.html", made[0], overwrite=True)
    assert (written.path.read_bytes(), written.key_path.read_bytes()) == before
    assert len(list(tmp_path.iterdir())) == 2


def test_errors(tmp_path, sample):
    blind, named = tmp_path / "blind", tmp_path / "named"
    blind.mkdir()
    named.mkdir()
    make_run(blind, sample, truth=False, scans=("Sim1",))
    make_run(named, sample, methods=("truth",), scans=("Sim1",))
    with pytest.raises(InputError, match="no truth of Sim1"):
        write_rating_page(tmp_path / "r.html", blind)
    with pytest.raises(InputError, match="method called 'truth'"):
        write_rating_page(tmp_path / "r.html", named)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["blind", "named"]
