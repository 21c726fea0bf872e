"""What the tests of the page share: one browser, one server, and the page's handles."""

import atexit
import unittest

from selenium.webdriver.common.keys import Keys

import browser
from browser import DESKTOP, find, find_all, load, wait
from serving import Server

SUM = "Compute 34 + 6."
LONG = "It was the best of times, it was the"  # glm-nano goes on from there until it is stopped
GREEDY = {"temperature": "0"}
WEATHER = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather in a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


class PageTest(unittest.TestCase):
    """One browser for all classes, one server for those that do not start their own."""

    driver = None
    server = None
    expected_errors = ()  # parts of console lines that are no failure

    @classmethod
    def setUpClass(cls):
        if PageTest.driver is None:
            PageTest.driver = browser.start()
            atexit.register(PageTest.driver.quit)
        if PageTest.server is None:
            PageTest.server = Server()
            atexit.register(PageTest.server.__exit__)

    def setUp(self):
        browser.resize(self.driver, DESKTOP)
        browser.set_dark(self.driver, False)
        self.driver.get_log("browser")

    def tearDown(self):
        # Among these would be every breach of the Content-Security-Policy.
        for line in self.driver.get_log("browser"):
            if line["level"] in ("SEVERE", "WARNING") and not any(part in line["message"] for part in self.expected_errors):
                self.fail(line["message"])
        self.driver.get("about:blank")  # ends whatever still runs

    def open(self, settings=GREEDY, address=None):
        load(self.driver, address or self.server.address + "/", settings)

    def find(self, selector):
        return find(self.driver, selector)

    def all(self, selector):
        return find_all(self.driver, selector)

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def click(self, selector):
        wait(self.driver, lambda: self.all(selector))
        # To WebDriver what lies above is hidden, as the thread scrolls from its bottom.
        self.js("arguments[0].scrollIntoView({ block: 'nearest' })", self.find(selector))
        wait(self.driver, lambda: self.find(selector).is_displayed())
        self.find(selector).click()

    def send(self, text):
        self.find("#prompt").send_keys(text + Keys.ENTER)

    def busy(self):
        return self.find("#send").get_attribute("aria-label") == "Stop"

    def finish(self, seconds=30):
        wait(self.driver, lambda: not self.busy() and self.all(".message.assistant[aria-busy=false]"), seconds)

    def ask(self, text):
        self.send(text)
        self.finish()

    def answers(self):
        return self.js("return [...document.querySelectorAll('.message.assistant > .markdown')].map((e) => e.textContent.trim())")

    def questions(self):
        return self.js("return [...document.querySelectorAll('.message.user > .plain')].map((e) => e.textContent)")

    def sent(self):
        """The bodies of chat requests from here on: fetch is watched."""
        self.js(
            """
            window.sent = [];
            const fetched = window.fetch;
            window.fetch = (address, options) => {
              if (String(address).includes('chat/completions')) window.sent.push(JSON.parse(options.body));
              return fetched(address, options);
            };
            """
        )
        return lambda: self.js("return window.sent")
