"""Headless Chromium, driven by WebDriver, and what the tests of the page need of it."""

import json
import os
import pathlib
import sys
import tempfile

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "clients"))

DESKTOP = (1440, 900)
PHONE = (390, 844)


def start(size=DESKTOP, dark=False, traced=False):
    """traced: the log "performance" has the timeline of the page's thread."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    downloads = tempfile.mkdtemp(prefix="longshore-page-")
    for flag in (
        "--headless=new",
        "--no-sandbox",  # the tests may run as root, in a container
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-gpu",
        "--hide-scrollbars",
        "--no-first-run",
        f"--window-size={size[0]},{size[1]}",
    ):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": downloads})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", **({"performance": "ALL"} if traced else {})})
    if traced:
        options.add_experimental_option("perfLoggingPrefs", {"enableNetwork": False, "enablePage": False, "traceCategories": "devtools.timeline"})
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver", log_output=os.devnull))
    driver.downloads = pathlib.Path(downloads)
    driver.set_script_timeout(60)
    resize(driver, size)
    set_dark(driver, dark)
    return driver


def resize(driver, size):
    """The viewport itself: a headless window has a least width of its own."""
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def set_dark(driver, dark):
    value = "dark" if dark else "light"
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": value}]})


def wait(driver, condition, seconds=20):
    return WebDriverWait(driver, seconds, poll_frequency=0.03).until(lambda _: condition())


def find(driver, selector):
    return driver.find_element(By.CSS_SELECTOR, selector)


def find_all(driver, selector):
    return driver.find_elements(By.CSS_SELECTOR, selector)


def load(driver, address, settings=None):
    """The page as for the first time, with these settings kept from before."""
    origin = "/".join(address.split("/")[:3])
    driver.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": origin, "storageTypes": "all"})
    script = ""
    if settings:
        script = f"localStorage.setItem('longshore.settings', JSON.stringify({json.dumps(settings)}))"
    added = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
    driver.get(address)
    driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
    wait_ready(driver)


def wait_ready(driver):
    wait(driver, lambda: driver.execute_script("return document.body?.dataset.ready === 'true'"))
