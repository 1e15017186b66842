"""Chromium without a screen and without a network: `python -m pytest -m browser tests/browser` (Debian: chromium, chromium-driver; pip: selenium)."""

import shutil
import time
from pathlib import Path

import pytest
from pages import make_run

from qsmdl.report.page import write_report
from qsmdl.report.rating_page import write_rating_page

WAIT_S = 240
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--window-size=1400,1100",
    "--proxy-server=127.0.0.1:9",  # nothing answers there: whatever is not in the file cannot be had
)
SOFTWARE_WEBGL2 = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
NO_WEBGL = ("--disable-gpu", "--disable-3d-apis")


class Browser:
    """A driver with what the tests ask again and again."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, path: Path):
        self.driver.get(path.resolve().as_uri())

    def js(self, code, *arguments):
        return self.driver.execute_script(code, *arguments)

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def wait(self, code, *arguments):
        """Until a JavaScript expression is true; returns its value."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            value = self.js(f"return {code}", *arguments)
            if value:
                return value
            time.sleep(0.2)
        raise AssertionError(f"{code} did not become true within {WAIT_S} s")

    def wait_for_panes(self, n):
        self.wait(f"document.getElementById('panes').dataset.ready === '{n}'")

    def errors(self):
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def start(*arguments, downloads=None):
    from selenium import webdriver  # only these tests need it

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("chromium-browser") or ""
    for argument in (*ARGUMENTS, *arguments):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if downloads is not None:
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


@pytest.fixture(scope="session")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="session")
def browser(downloads):
    driver = start(*SOFTWARE_WEBGL2, downloads=downloads)
    yield Browser(driver)
    driver.quit()


@pytest.fixture(scope="session")
def browser_without_webgl():
    driver = start(*NO_WEBGL)
    yield Browser(driver)
    driver.quit()


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory, sample):
    folder = tmp_path_factory.mktemp("run")
    return folder, make_run(folder, sample)


@pytest.fixture(scope="session")
def report(run_folder):
    return write_report(run_folder[0] / "report.html", run_folder[0]).path


@pytest.fixture(scope="session")
def report_to_rate_in(run_folder):
    return write_report(run_folder[0] / "both.html", run_folder[0], with_rating=True)


@pytest.fixture(scope="session")
def rating(run_folder):
    return write_rating_page(run_folder[0] / "rate.html", run_folder[0])
