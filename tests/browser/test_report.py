"""The report in a real browser."""

import io
import itertools
import json

import matplotlib.image
import numpy as np
import pytest
from pages import METHODS

from qsmdl.io.nifti import write_volume
from qsmdl.report.page import write_report
from qsmdl.report.volumes import STEP_PPM, crop_to

pytestmark = pytest.mark.browser
N_PANES = 1 + 2 * len(METHODS)  # the truth, and a map and a difference for each method


def picture(browser, number):
    """What a pane shows on the screen, RGB from 0 to 1."""
    canvas = browser.driver.find_elements("css selector", "#panes canvas")[number]
    browser.js("arguments[0].scrollIntoView({block: 'center'})", canvas)
    return matplotlib.image.imread(io.BytesIO(canvas.screenshot_as_png))[..., :3]


def positions(browser):
    return np.array(browser.js("return qsmdl.panes().map((pane) => [...pane.nv.scene.crosshairPos])"))


def readouts(browser):
    return [element.text for element in browser.driver.find_elements("css selector", "#panes output")]


@pytest.fixture(scope="module")
def page(browser, report):
    browser.open(report)
    browser.wait_for_panes(N_PANES)
    return browser


def test_it_opens_without_network_and_without_errors(page):
    assert page.errors() == []
    assert page.js("return performance.getEntriesByType('resource').filter((e) => e.name.startsWith('http')).length") == 0
    assert not page.find("#viewer-note").is_displayed()


def test_panes_differ_between_methods_and_none_is_empty(page):
    pictures = [picture(page, number) for number in range(N_PANES)]
    for one in pictures:
        assert one.std() > 0.02
    for a, b in itertools.combinations(pictures, 2):
        assert np.abs(a - b).mean() > 1e-3
    for number in range(2, N_PANES, 2):  # differences are coloured, maps are grey but for the crosshair
        assert np.ptp(pictures[number], axis=-1).mean() > 3 * np.ptp(pictures[number - 1], axis=-1).mean()


def test_the_values_under_the_crosshair_are_those_of_the_maps(page, run_folder, sample):
    truth, mask = sample[1].chi_ppm.numpy(), sample[1].mask.numpy()
    start = np.array([s.start for s in crop_to(mask)])
    page.js("document.querySelector('#panes canvas').focus()")
    for _ in range(3):
        page.js("qsmdl.step(0, 1); qsmdl.step(2, -1)")
        voxel = page.js(
            "const data = JSON.parse(document.getElementById('report-data').textContent).scans[0];"
            "const mm = qsmdl.panes()[0].nv.frac2mm(qsmdl.panes()[0].nv.scene.crosshairPos);"
            "return data.mm_to_voxel.map((r) => Math.round(r[0] * mm[0] + r[1] * mm[1] + r[2] * mm[2] + r[3]))"
        )
        index = tuple(start + voxel)
        expected = [truth[index] * mask[index]]
        for method in METHODS:
            chi = run_folder[1]["Sim1"][method]
            offset = chi[mask].mean() - truth[mask].mean()
            expected += [chi[index], (chi[index] - truth[index] - offset) * mask[index]]
        shown = [float(text.replace("\u2212", "-").removesuffix(" ppm")) for text in readouts(page)]
        np.testing.assert_allclose(shown, expected, atol=1.5 * STEP_PPM)
        # what NiiVue itself holds at its crosshair is the same
        own = page.js("return qsmdl.panes().map((p) => p.nv.volumes[0].getValue(...p.nv.frac2vox(p.nv.scene.crosshairPos)))")
        np.testing.assert_allclose(own, expected, atol=1.5 * STEP_PPM)


def test_the_patients_right_is_on_the_left(page, run_folder, sample):
    """A click near the left edge of an axial slice lands at large x: right in RAS."""
    page.js("document.querySelectorAll('#show-choice select')[1].value = 'axial'")
    page.js("document.querySelectorAll('#show-choice select')[1].dispatchEvent(new Event('change'))")
    page.wait("qsmdl.panes().every((pane) => pane.nv.opts.sliceType === 0)")
    from selenium.webdriver import ActionChains

    canvas = page.find("#panes canvas")
    page.js("arguments[0].scrollIntoView({block: 'center'})", canvas)
    size = canvas.size
    for side, is_right in ((-0.2, True), (0.2, False)):
        ActionChains(page.driver).move_to_element_with_offset(canvas, int(side * size["width"]), 0).click().perform()
        at = positions(page)
        assert (at[0][0] > 0.5) == is_right
        assert np.ptp(at, axis=0).max() < 1e-6  # all panes followed
    for side, is_front in ((-0.2, True), (0.2, False)):
        ActionChains(page.driver).move_to_element_with_offset(canvas, 0, int(side * size["height"])).click().perform()
        assert (positions(page)[0][1] > 0.5) == is_front


def test_keys_and_sliders_move_the_crosshair_of_all_panes(page):
    from selenium.webdriver.common.keys import Keys

    canvas = page.driver.find_elements("css selector", "#panes canvas")[3]
    moves = {Keys.ARROW_LEFT: (0, 1), Keys.ARROW_RIGHT: (0, -1), Keys.ARROW_UP: (1, 1), Keys.ARROW_DOWN: (1, -1), Keys.PAGE_UP: (2, 1)}
    for key, (axis, sign) in moves.items():
        before = positions(page)
        canvas.send_keys(key)
        moved = positions(page) - before
        assert (np.sign(moved[:, axis]) == sign).all()
        assert np.ptp(positions(page), axis=0).max() < 1e-6
    before, pictures = positions(page), picture(page, 1)
    page.js("const s = document.querySelectorAll('#crosshair input')[2]; s.value = 5; s.dispatchEvent(new Event('input'))")
    assert (positions(page)[:, 2] != before[:, 2]).all()
    assert np.abs(picture(page, 1) - pictures).mean() > 1e-3


def test_labels_window_and_choice_of_methods(page):
    page.js("qsmdl.step(2, 3)")  # to a slice with many labels
    before = picture(page, 1)
    page.js("document.querySelectorAll('#show-choice input')[1].click()")
    page.wait("qsmdl.panes().every((pane) => pane.nv.volumes.length === (pane.isDifference ? 1 : 2))")
    assert page.find("#label-legend").is_displayed()
    with_labels = picture(page, 1)
    newly_coloured = (np.ptp(with_labels, axis=-1) > 0.03) & (np.ptp(before, axis=-1) < 0.01)
    assert newly_coloured.mean() > 0.05
    page.js("document.querySelectorAll('#show-choice input')[1].click()")
    page.wait("qsmdl.panes().every((pane) => pane.nv.volumes.length === 1)")
    page.js("const s = document.querySelectorAll('#show-choice select')[2]; s.selectedIndex = 1; s.dispatchEvent(new Event('change'))")
    page.wait("qsmdl.panes().every((pane) => Math.abs(pane.nv.volumes[0].cal_max - 0.05) < 1e-9)")
    assert picture(page, 1).std() > before.std()
    page.js("document.querySelector('#method-choice input').click()")
    page.wait_for_panes(N_PANES - 2)
    assert METHODS[0] not in [element.text for element in page.driver.find_elements("css selector", "#panes h3")]
    page.js("const s = document.querySelectorAll('#show-choice select')[0]; s.selectedIndex = 1; s.dispatchEvent(new Event('change'))")
    page.wait("document.querySelector('#panes p').textContent === 'Sim2'")
    page.wait_for_panes(N_PANES - 2)
    assert page.errors() == []


def column(page, number):
    rows = "[...document.querySelectorAll('#result-table tbody tr')].filter((row) => !row.hidden)"
    return page.js(f"return {rows}.map((row) => row.cells[arguments[0]].textContent)", number)


def test_the_table_sorts_and_filters(page):
    heading = page.find("#result-table thead th:nth-child(7)")
    assert heading.text.startswith("NRMSE")
    button = heading.find_element("css selector", "button")
    page.js("arguments[0].click()", button)
    values = [float(text) for text in column(page, 6)]
    assert values == sorted(values)
    assert heading.get_attribute("aria-sort") == "ascending"
    button.send_keys(" ")  # by keyboard
    assert [float(text) for text in column(page, 6)] == sorted(values, reverse=True)
    assert heading.get_attribute("aria-sort") == "descending"
    page.js("document.querySelector('#result-table thead th button').click()")
    assert column(page, 0) == sorted(column(page, 0))
    page.js("const s = document.getElementById('scan-filter'); s.value = 'Sim2'; s.dispatchEvent(new Event('change'))")
    assert set(column(page, 1)) == {"Sim2"}
    assert len(column(page, 1)) == len(METHODS)


def test_the_crosshair_is_seen_in_every_plane_of_a_full_size_map(browser, tmp_path):
    size = (140, 175, 150)
    write_volume(tmp_path / "maps" / "Sim1_flat.nii.gz", np.full(size, 0.001, np.float32), voxel_size_mm=(1.0, 1.0, 1.0))
    row = {"method": "flat", "scan": "Sim1", "metrics": {}, "seconds": 1.0, "peak_bytes": None, "seed": None, "stopped": "s"}
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    browser.open(write_report(tmp_path / "r.html", tmp_path).path)
    browser.wait_for_panes(1)
    for _ in range(4):  # at any position
        shown = picture(browser, 0)
        yellow = (shown[..., 0] - shown[..., 2] > 0.15) & (shown[..., 1] - shown[..., 2] > 0.1)
        height, width = yellow.shape
        # in the left half stand the coronal plane above the axial one: one vertical line runs through both, a horizontal one through each
        assert (yellow[:, : width // 2].mean(axis=0) > 0.5).any()
        assert (yellow[: height // 2, : width // 3].mean(axis=1) > 0.5).any()
        assert (yellow[height // 2 :, : width // 3].mean(axis=1) > 0.5).any()
        browser.js("qsmdl.step(0, 1); qsmdl.step(1, 1); qsmdl.step(2, 1)")


def test_without_webgl2_the_montages_stand_in(browser_without_webgl, report):
    browser = browser_without_webgl
    browser.open(report)
    assert "no WebGL2" in browser.find("#viewer-note").text
    assert not browser.find("#viewer").is_displayed()
    images = browser.driver.find_elements("css selector", "#figures img")
    assert [image.get_attribute("alt") for image in images[:2]] == ["Montage Sim1", "Montage Sim2"]
    assert len(images) > 2
    for image in images:
        assert browser.js("return arguments[0].complete && arguments[0].naturalWidth", image) > 300
        assert image.is_displayed()
    assert browser.errors() == []
