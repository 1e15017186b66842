"""The rating page in a real browser."""

import csv
import json
import time

import pytest
from pages import METHODS

from qsmdl.challenge.ratings import DISCREPANCIES, SCALES, TRUTH_NAME, mean_visual, read_ratings

pytestmark = pytest.mark.browser
N_SCREENS = len(SCALES) * (len(METHODS) + 1) + len(DISCREPANCIES) * len(METHODS)


def begin(browser, page, rater):
    browser.open(page)
    browser.find("#rater").send_keys(rater + "\n")


def press(browser, keys):
    from selenium.webdriver import ActionChains

    ActionChains(browser.driver).send_keys(keys).perform()


def count(browser):
    return browser.find("#count").text


def downloaded(folder, name):
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if (folder / name).exists():
            return folder / name
        time.sleep(0.1)
    raise AssertionError(f"{name} was not downloaded; there is {[p.name for p in folder.iterdir()]}")


def pictures(browser):
    return browser.js("return [...document.querySelectorAll('#stage img')].map((image) => image.src)")


def test_rating_by_keyboard_is_resumed_and_exported(browser, rating, downloads):
    begin(browser, rating.path, "Rater 1")
    assert browser.find("#work-title").text == f"Streaking: submission 1 of {len(METHODS) + 1}"
    assert len(pictures(browser)) == 6  # three slices of two scans
    first = pictures(browser)
    press(browser, "2")
    assert pictures(browser) == first  # Sim2 is still to be rated
    press(browser, "1")
    assert pictures(browser) != first
    assert count(browser) == f"1 of {N_SCREENS} rated"
    press(browser, "9")  # no such value
    press(browser, "33")
    assert count(browser) == f"2 of {N_SCREENS} rated"
    browser.open(rating.path)
    assert not browser.find("#work").is_displayed()
    begin(browser, rating.path, "Rater 1")
    assert count(browser) == f"2 of {N_SCREENS} rated"
    press(browser, "\ue012\ue012")  # arrow left, twice
    assert pictures(browser) == first
    assert browser.find("#stage .scan [aria-checked='true']").text == "2 moderate"
    browser.find("#unrated").click()
    for _ in range(3 * N_SCREENS):
        if "All rated" in count(browser):
            break
        press(browser, "1")
    assert "All rated" in count(browser)
    browser.find("#export-csv").click()
    path = downloaded(downloads, "ratings_Rater 1.csv")
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["value"] for line in lines[:4]] == ["2", "1", "3", "3"]
    assert len(lines) == len(SCALES) * (len(METHODS) + 1) * 2 + len(DISCREPANCIES) * len(METHODS) * 2
    assert len(lines) == len({(line["submission"], line["category"], line["scan"]) for line in lines})
    means = mean_visual(read_ratings(path, key=rating.key_path))
    assert set(means) == {*METHODS, TRUTH_NAME}
    assert sorted(means.values()) == pytest.approx([1, 1, 4 / 3, 5 / 3])
    assert browser.errors() == []


def test_orders_differ_between_raters_and_categories_and_come_back(browser, rating):
    def order(rater, category):
        browser.js("localStorage.clear()")  # which would go on where the rater left off
        begin(browser, rating.path, rater)
        seen = []
        for number in range((category + 1) * (len(METHODS) + 1)):
            if number >= category * (len(METHODS) + 1):
                seen.append(pictures(browser)[0])
            press(browser, "\ue014")
        return seen

    orders = [order(rater, category) for rater in ("a", "b", "c", "d") for category in (0, 1)]
    assert len({tuple(sorted(one)) for one in orders}) == 1  # the same maps
    assert len({tuple(one) for one in orders}) > 2
    assert order("a", 0) == orders[0]


def test_progress_moves_to_another_browser(browser, rating, downloads):
    begin(browser, rating.path, "Mover")
    press(browser, "3210")
    browser.find("#export-progress").click()
    path = downloaded(downloads, "progress_Mover.json")
    browser.js("localStorage.clear()")
    browser.open(rating.path)
    browser.find("#import").send_keys(str(path))
    browser.wait("!document.getElementById('work').hidden")
    assert count(browser) == f"2 of {N_SCREENS} rated"


@pytest.mark.parametrize(
    ("change", "message"),
    [({"page": "other"}, "belongs to another rating page"), ({"format": "x"}, "no progress file"), ({"rater": "=1+1"}, "letters, digits")],
)
def test_foreign_progress_is_refused(browser, rating, downloads, tmp_path, change, message):
    page = json.loads(rating.key_path.read_text())["page"]
    content = {"format": "qsmdl-rating-1", "page": page, "rater": "Stranger", "index": 0, "ratings": {}} | change
    (tmp_path / "p.json").write_text(json.dumps(content))
    browser.open(rating.path)
    browser.find("#import").send_keys(str(tmp_path / "p.json"))
    browser.wait("document.getElementById('start-message').textContent")
    assert message in browser.find("#start-message").text


def test_values_off_the_scale_are_dropped_from_progress(browser, rating, tmp_path):
    key = json.loads(rating.key_path.read_text())
    code = next(iter(key["codes"]))
    ratings = {f"noise|{code}|Sim1": 9, f"noise|{code}|Sim2": 2, "<b>|x|y": 1}
    content = {"format": "qsmdl-rating-1", "page": key["page"], "rater": "Careless", "index": 99, "ratings": ratings}
    (tmp_path / "p.json").write_text(json.dumps(content))
    browser.open(rating.path)
    browser.find("#import").send_keys(str(tmp_path / "p.json"))
    browser.wait("!document.getElementById('work').hidden")
    stored = json.loads(browser.js(f"return localStorage.getItem('qsmdl-rating:{key['page']}:Careless')"))
    assert stored["ratings"] == {f"noise|{code}|Sim2": 2}
    assert stored["index"] == 0


def seen(browser):
    """All the text that is on the screen, and the title of its tab."""
    return f"{browser.driver.title}\n{browser.js('return document.body.innerText')}"


def shows_nothing_of_the_results(browser):
    text = seen(browser)
    assert not [word for word in (*METHODS, "NRMSE", "Provenance", "both.key", "truth,") if word in text], text
    assert not browser.find("#report").is_displayed()
    assert not browser.driver.find_elements("css selector", "#panes canvas")
    return text


def knock(browser, door):
    browser.find(f"[data-door={door}]").click()


def test_a_report_opens_on_two_doors_and_the_blind_one_shows_no_result(browser, report_to_rate_in, downloads):
    browser.driver.get(f"{report_to_rate_in.path.resolve().as_uri()}#results")  # a link into the results opens no door
    browser.js("localStorage.clear()")
    browser.driver.refresh()
    assert "two doors" in shows_nothing_of_the_results(browser)
    assert not browser.find("#seen-warning").is_displayed()
    knock(browser, "rating-mode")
    press(browser, "Blind one\n")  # the name has the focus
    for number in range(N_SCREENS):
        shows_nothing_of_the_results(browser)
        assert not browser.find("#to-results").is_displayed()
        assert count(browser) == f"{number} of {N_SCREENS} rated"
        press(browser, "01")
        if number == 4:  # resumed after the page was closed
            browser.open(report_to_rate_in.path)
            knock(browser, "rating-mode")
            press(browser, "Blind one\n")
    assert "All rated" in count(browser)
    browser.find("#export-csv").click()
    path = downloaded(downloads, "ratings_Blind one.csv")
    assert set(mean_visual(read_ratings(path, key=report_to_rate_in.key_path))) == {*METHODS, TRUTH_NAME}
    shows_nothing_of_the_results(browser)
    browser.find("#to-results").click()
    browser.wait_for_panes(1 + 2 * len(METHODS))
    text = seen(browser)
    assert all(method in text for method in METHODS)
    assert not browser.find("#work").is_displayed()
    assert not browser.find("#doors").is_displayed()
    stored = browser.js("return JSON.stringify(localStorage)")
    press(browser, "1")  # rates nothing any more
    assert browser.js("return JSON.stringify(localStorage)") == stored
    assert browser.js("return qsmdl.panes().every((pane) => pane.canvas.width > 100)")
    assert browser.errors() == []


def test_who_leaves_may_see_the_results_and_is_told_not_to_be_blind(browser, report_to_rate_in):
    browser.open(report_to_rate_in.path)
    browser.js("localStorage.clear()")
    browser.driver.refresh()
    knock(browser, "rating-mode")
    press(browser, "Leaver\n")
    press(browser, "2")
    browser.find("#leave").click()
    shows_nothing_of_the_results(browser)
    browser.find("#start [data-door=doors]").click()
    assert not browser.find("#seen-warning").is_displayed()
    browser.find("#doors [data-door=report]").click()
    assert browser.find("#result-table").is_displayed()
    browser.find("#report [data-door=doors]").click()
    assert browser.find("#seen-warning").is_displayed()
    browser.open(report_to_rate_in.path)  # it is remembered
    assert browser.find("#seen-warning").is_displayed()
    shows_nothing_of_the_results(browser)
