"""Talking to the model through the page, and what the browser keeps of it. Run by page_test.py."""

import http.client
import json

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import browser
from browser import wait
from case import GREEDY, LONG, SUM, WEATHER, PageTest
from serving import eventually


class Chat(PageTest):
    def test_a_message_is_sent_and_answered(self):
        self.open()
        self.assertTrue(self.find("#welcome").is_displayed())
        self.assertEqual(self.find("#welcome-title").text, "glm-nano")
        self.ask(SUM)
        self.assertEqual((self.questions(), self.answers()), ([SUM], ["40"]))
        self.assertFalse(self.find("#welcome").is_displayed())
        self.assertRegex(self.find(".meta").text, r"^18 tokens · [\d.]+ tokens/s · first after [\d.]+ m?s")
        self.assertEqual(self.find("#conversations [aria-current]").text, SUM)
        self.assertIn("complete", self.find("#announcer").get_attribute("textContent"))

    def test_the_answer_streams(self):
        self.open(GREEDY | {"max_tokens": "60"})
        self.js(
            """
            window.lengths = new Set();
            const look = () => {
              window.lengths.add(document.querySelector('.message.assistant > .markdown')?.textContent.length ?? 0);
              requestAnimationFrame(look);
            };
            look();
            """
        )
        self.ask(LONG)
        lengths = self.js("return [...window.lengths]")
        self.assertGreater(len(lengths), 5, "the text should have grown in many frames")
        self.assertEqual(lengths, sorted(lengths))
        self.assertIn("Cut at the longest answer", self.find(".notice").text)

    def test_stop_keeps_what_has_come_and_frees_the_server(self):
        self.open()
        self.send(LONG)
        wait(self.driver, lambda: self.answers() and len(self.answers()[0]) > 20)
        self.assertEqual(self.find("#send").get_attribute("aria-label"), "Stop")
        self.find("#send").click()
        self.finish()
        kept = self.answers()[0]
        self.assertGreater(len(kept), 20)
        self.assertEqual(self.find(".notice").text, "Stopped.")
        self.assertTrue(eventually(lambda: "num_running_reqs{model_name=\"glm-nano\"} 0" in self.get("/metrics")))
        self.assertEqual(self.answers()[0], kept)

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        connection.request("GET", path)
        text = connection.getresponse().read().decode()
        connection.close()
        return text

    def test_regenerate_gives_another_version_and_keeps_the_first(self):
        self.open({"temperature": "1.5", "max_tokens": "12"})
        self.ask("Tell me a story.")
        first = self.answers()[0]
        for version in range(2, 5):
            self.click("[aria-label=Regenerate]")
            wait(self.driver, lambda: self.all(".branches") and self.find(".branches span").text == f"{version} / {version}")
            self.finish()
        self.assertEqual(len(self.answers()), 1)
        for _ in range(3):
            self.click("[aria-label='Previous version']")
        self.assertEqual(self.find(".branches span").text, "1 / 4")
        self.assertEqual(self.answers(), [first])

    def test_an_edit_is_a_branch(self):
        self.open()
        self.ask(SUM)
        self.ask("Say exactly: Omapel")
        self.find(".message.user [aria-label=Edit]").click()
        area = self.find(".edit-form textarea")
        area.send_keys(Keys.CONTROL, "a")
        area.send_keys("Compute 12 + 5.")
        self.find(".edit-form .primary").click()
        wait(self.driver, lambda: self.questions() == ["Compute 12 + 5."])
        self.finish()
        self.assertEqual(self.answers(), ["17"])
        self.click("[aria-label='Previous version']")
        self.assertEqual(self.questions(), [SUM, "Say exactly: Omapel"])
        self.assertEqual(self.answers(), ["40", "Omapel"])

    def test_an_edit_can_be_given_up(self):
        self.open()
        self.ask(SUM)
        self.find(".message.user [aria-label=Edit]").click()
        self.find(".edit-form textarea").send_keys("more", Keys.ESCAPE)
        self.assertEqual(self.questions(), [SUM])
        self.assertEqual(self.all(".edit-form"), [])

    def test_thinking_is_folded_with_its_duration(self):
        self.open()
        self.ask(SUM)
        details = self.find("details.thinking")
        self.assertIsNone(details.get_attribute("open"))
        self.assertRegex(details.text, r"^Thought for [\d.]+ m?s$")
        self.assertNotIn("4+6=10", self.find("#thread").text)
        details.find_element(By.TAG_NAME, "summary").click()
        self.assertIn("4+6=10, 3+0+1=4", details.text)

    def test_thinking_can_be_turned_off(self):
        self.open()
        body = self.sent()
        self.click("#chip-thinking")
        self.click("#chip-thinking")
        self.assertEqual(self.find("#chip-thinking").text, "Thinking off")
        self.ask(SUM)
        self.assertEqual(body()[0]["chat_template_kwargs"], {"enable_thinking": False})
        self.assertFalse(self.find("details.thinking").is_displayed())

    def test_a_tool_is_defined_called_and_answered(self):
        self.open()
        self.click("#open-settings")
        area = self.find("[name=tools]")
        area.send_keys("[oops")
        self.assertIn("Tools are no JSON", self.find("#settings-problem").text)
        area.send_keys(Keys.CONTROL, "a")
        area.send_keys(json.dumps(WEATHER))
        self.assertEqual(self.find("#settings-problem").text, "")
        self.click("#close-settings")
        self.assertIn("1 tool", self.find("#open-settings").text)
        self.ask("What is the weather in Berlin?")
        call = self.find(".call")
        self.assertEqual(call.find_element(By.CSS_SELECTOR, ".call-head").text.split(), ["Calls", "get_weather"])
        self.assertEqual(json.loads(call.find_element(By.TAG_NAME, "pre").text), {"city": "Berlin"})
        self.assertFalse(self.find("#prompt").is_enabled())
        body = self.sent()
        self.find(".results textarea").send_keys('{"temperature": 21}')
        self.find(".results button").click()
        wait(self.driver, lambda: len(self.all(".message.assistant")) == 2)
        self.finish()
        self.assertEqual(self.find(".message.tool .call-head").text.split(), ["Result", "of", "get_weather"])
        roles = [message["role"] for message in body()[0]["messages"]]
        self.assertEqual(roles, ["user", "assistant", "tool"])
        self.assertEqual(body()[0]["messages"][1]["tool_calls"][0]["id"], body()[0]["messages"][2]["tool_call_id"])
        self.assertNotEqual(self.answers()[-1], "")
        self.assertTrue(self.find("#prompt").is_enabled())

    def test_settings_reach_the_request(self):
        self.open(None)
        self.click("#open-settings")
        for name, value in {"system": "Be brief.", "temperature": "0", "top_p": "0.9", "max_tokens": "5", "seed": "7", "stop": "zz"}.items():
            self.find(f"#settings-form [name={name}]").send_keys(value)
        self.find("#settings-form [name=top_k]").send_keys("many")
        self.assertIn("Top k", self.find("#settings-problem").text)
        self.find("#settings-form [name=top_k]").send_keys(Keys.CONTROL, "a")
        self.find("#settings-form [name=top_k]").send_keys(Keys.DELETE)
        self.click("#close-settings")
        body = self.sent()
        self.ask(LONG)
        sent = body()[0]
        self.assertEqual(sent["messages"][0], {"role": "system", "content": "Be brief."})
        wanted = {"temperature": 0, "top_p": 0.9, "max_tokens": 5, "seed": 7, "stop": ["zz"]}
        self.assertEqual({name: sent[name] for name in wanted}, wanted)
        self.assertNotIn("top_k", sent)

    def test_what_the_server_refuses_is_said(self):
        self.open({"seed": "1", "min_p": "0.5", "stop": "\n".join("x" * i for i in range(1, 80))})
        self.send(SUM)
        wait(self.driver, lambda: self.all(".notice.bad"))
        self.assertIn("at most 64", self.find(".notice.bad").text)

    def setUp(self):
        super().setUp()
        self.expected_errors = ("400 (Bad Request)",) if "refuses" in self._testMethodName else ()

    def test_copy_gives_the_text(self):
        self.driver.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]})
        self.open()
        self.ask(SUM)
        self.find(".message.assistant [aria-label='Copy message']").click()
        wait(self.driver, lambda: self.find("#announcer").get_attribute("textContent") == "Copied")
        self.assertEqual(self.driver.execute_async_script("navigator.clipboard.readText().then(arguments[0])"), "40")


class Keeping(PageTest):
    def test_reload_keeps_the_conversation(self):
        self.open()
        self.ask(SUM)
        self.click("[aria-label=Regenerate]")
        wait(self.driver, lambda: self.all(".branches"))
        self.finish()
        self.driver.refresh()
        browser.wait_ready(self.driver)
        self.assertEqual((self.questions(), self.answers()), ([SUM], ["40"]))
        self.assertEqual(self.find(".branches span").text, "2 / 2")
        self.assertRegex(self.find("details.thinking").text, "^Thought for")
        self.ask("Say exactly: Omapel")
        self.assertEqual(self.answers(), ["40", "Omapel"])

    def test_a_reload_in_the_middle_says_so(self):
        self.open()
        self.send(LONG)
        wait(self.driver, lambda: self.answers() and len(self.answers()[0]) > 20)
        self.driver.refresh()
        browser.wait_ready(self.driver)
        self.assertEqual(self.questions(), [LONG])
        self.assertIn("Interrupted", self.find(".notice").text)

    def test_conversations_are_listed_searched_renamed_and_deleted(self):
        self.open()
        self.ask(SUM)
        self.find("body").send_keys(Keys.ALT, "n")
        wait(self.driver, lambda: self.find("#welcome").is_displayed())
        self.ask("Say exactly: Omapel")
        # By one script: the list may be drawn anew between two questions.
        names = lambda: self.js("return [...document.querySelectorAll('#conversations button')].map((one) => one.innerText)")
        self.assertEqual(names(), ["Say exactly: Omapel", SUM])
        self.find("#search").send_keys("34")
        self.assertEqual(names(), [SUM])
        self.find("#search").send_keys(Keys.CONTROL, "a")
        self.find("#search").send_keys(Keys.DELETE)
        self.find("#title").send_keys(Keys.CONTROL, "a")
        self.find("#title").send_keys("A name", Keys.ENTER)
        self.assertIn("A name", names())
        self.click("#delete")
        self.click("#confirm-yes")
        wait(self.driver, lambda: names() == [SUM])
        self.click("#conversations button")
        wait(self.driver, lambda: self.answers() == ["40"])

    def test_what_is_deleted_while_it_is_answered_stays_away(self):
        self.open()
        self.send(LONG)
        wait(self.driver, lambda: self.answers() and len(self.answers()[0]) > 20)
        self.click("#delete")
        self.click("#confirm-yes")
        wait(self.driver, lambda: self.find("#welcome").is_displayed())
        self.assertEqual(self.all("#conversations button"), [])
        self.driver.refresh()
        browser.wait_ready(self.driver)
        self.assertEqual(self.all("#conversations button"), [])

    def test_export_is_json_and_comes_back(self):
        self.open()
        self.ask(SUM)
        self.click("#export")
        wait(self.driver, lambda: list(self.driver.downloads.glob("*.json")))
        path = next(self.driver.downloads.glob("*.json"))
        wait(self.driver, lambda: path.stat().st_size > 0)
        exported = json.loads(path.read_text())
        self.assertEqual([node["content"] for node in exported["nodes"].values()], [SUM, "40"])
        self.assertEqual(exported["settings"], GREEDY)
        self.open()
        self.assertEqual(self.all("#conversations button"), [])
        self.find("#import-file").send_keys(str(path))
        wait(self.driver, lambda: self.answers() == ["40"])
        path.unlink()
