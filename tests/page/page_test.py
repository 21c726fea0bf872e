"""The page in headless Chromium, against the built server with the bundled model."""

import http.client
import json
import pathlib
import re
import time
import unittest

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

import browser
import measure
from browser import PHONE, wait
from case import GREEDY, LONG, SUM, PageTest
from chat_test import Chat, Keeping  # noqa: F401: they run here too, in the same browser
from injections import INJECTIONS
from proxy import Proxy
from serving import Server

HERE = pathlib.Path(__file__).resolve().parent


class Faults(PageTest):
    expected_errors = ("ERR_CONNECTION", "ERR_INCOMPLETE", "ERR_EMPTY", "401 (", "503 (")

    def test_a_restart_of_the_server_is_survived_with_a_notice(self):
        with Server() as first:
            port = first.port
            self.open(address=first.address + "/")
            self.send(LONG)
            wait(self.driver, lambda: self.answers() and len(self.answers()[0]) > 20)
            first.process.kill()
            first.process.wait()
            wait(self.driver, lambda: "cannot be reached" in self.find("#banner").text)
            self.finish()
            self.assertIn("broke off", self.find(".notice.bad").text)
            kept = self.answers()
            self.assertGreater(len(kept[0]), 20)
        time.sleep(1)  # the server's start is told in whole seconds
        with Server("--port", str(port)):
            wait(self.driver, lambda: "was restarted" in self.find("#banner").text)
            self.assertEqual(self.answers(), kept)
            self.click("[aria-label=Regenerate]")
            wait(self.driver, self.busy)
            self.find("#send").click()
            self.finish()
            self.assertEqual(self.find(".branches span").text, "2 / 2")
            self.find("body").send_keys(Keys.ALT, "n")
            self.ask(SUM)
            self.assertEqual(self.answers(), ["40"])

    def test_a_key_is_asked_for_and_kept_for_the_tab(self):
        with Server("--api-key", "secret") as server:
            self.open(address=server.address + "/")
            wait(self.driver, lambda: self.find("#ask-key").is_displayed())
            self.find("#key").send_keys("wrong", Keys.ENTER)
            wait(self.driver, lambda: "not the server" in self.find("#key-problem").text)
            self.find("#key").send_keys("secret", Keys.ENTER)
            wait(self.driver, lambda: self.find("#welcome-title").text == "glm-nano")
            self.ask(SUM)
            self.assertEqual(self.answers(), ["40"])
            self.driver.get(server.address + "/#/dashboard/")
            wait(self.driver, lambda: self.find("[data-fact='Generated tokens']").text == "18")
            self.assertFalse(self.js("return JSON.stringify(localStorage).includes('secret')"))

    def test_it_works_below_a_path_where_a_proxy_strips_it(self):
        with Proxy(self.server.port, prefix="/ai/glm") as proxy:
            self.open(address=proxy.address)
            self.ask(SUM)
            self.assertEqual(self.answers(), ["40"])
            self.driver.get(proxy.address + "#/dashboard/")
            wait(self.driver, lambda: self.all("[data-fact='Generated tokens']"))
            self.assertTrue(all(path.startswith("/ai/glm/") for _, path, _ in proxy.requests))


class Safety(PageTest):
    def test_twenty_injections_stay_text(self):
        self.assertEqual(len(INJECTIONS), 20)
        text = "\n\n".join(INJECTIONS)
        deltas = [{"reasoning_content": text}]
        deltas += [{"content": piece} for piece in re.findall(r"(?s).{1,9}", text)]
        deltas.append({"tool_calls": [{"index": 0, "id": "c", "function": {"name": INJECTIONS[0], "arguments": json.dumps({"a": text})}}]})
        model = json.dumps({"data": [{"id": INJECTIONS[0], "created": 1, "max_model_len": 10}]})
        answers = {
            "/v1/chat/completions": lambda handler, _: handler.stream(deltas, finish="tool_calls"),
            "/v1/models": lambda handler, _: handler.reply(model),
        }
        with Proxy(self.server.port, answers=answers) as proxy:
            self.open(address=proxy.address)
            self.js("window.attacked = 0; window.alert = window.attack = () => { window.attacked += 1; };")
            self.js("arguments[0].value = arguments[1]; document.getElementById('composer').requestSubmit()", self.find("#prompt"), text)
            self.finish()
            self.click(".thinking summary")
            self.assertEqual(self.find(".results label").text, f"Result of {INJECTIONS[0]}")
            self.find(".results textarea").send_keys("<img src=x onerror=attack()>")
            self.js("document.querySelector('.results').requestSubmit()")
            wait(self.driver, lambda: len(self.all(".message.assistant")) == 2)
            self.finish()
            self.driver.refresh()  # from the browser's storage too
            self.js("window.attacked ??= 0; window.alert = window.attack = () => { window.attacked += 1; };")
            wait(self.driver, lambda: len(self.all(".message.assistant")) == 2)
            time.sleep(0.3)
            self.assertEqual(self.js("return window.attacked"), 0)
            foreign = self.js(
                """
                const allowed = new Set(('A ARTICLE BLOCKQUOTE BR BUTTON CODE DEL DETAILS DIV EM FORM H1 H2 H3 H4 H5 H6 HR LABEL LI OL P PATH PRE '
                  + 'SECTION SPAN STRONG SUMMARY SVG TABLE TBODY TD TEXTAREA TH THEAD TR UL').split(' '));
                const bad = [];
                for (const element of document.querySelectorAll('#thread *')) {
                  if (!allowed.has(element.tagName.toUpperCase())) bad.push(element.outerHTML);
                  for (const { name, value } of element.attributes) {
                    if (/^on|^style$|^src$|^srcdoc$/i.test(name)) bad.push(element.outerHTML);
                    if (name === 'href' && !/^(https?|mailto):/.test(value)) bad.push(element.outerHTML);
                  }
                }
                return bad;
                """
            )
            self.assertEqual(foreign, [])
            for injection in INJECTIONS:
                if "<" in injection:
                    tag = re.search(r"<[^>\s]+", injection).group(0)
                    self.assertIn(tag, self.answers()[0], "it should be there to read")
            self.assertFalse([path for _, path, _ in proxy.requests if "stolen" in path])

    def test_the_policy_stops_what_would_get_in(self):
        self.expected_errors = ("Content Security Policy", "TrustedHTML", "TrustedScript")
        self.open()
        tried = self.driver.execute_async_script(
            """
            const done = arguments[0];
            const outcome = {};
            window.ran = false;
            try { document.body.insertAdjacentHTML('beforeend', '<b>x</b>'); outcome.html = 'in'; } catch { outcome.html = 'refused'; }
            const script = document.createElement('script');
            try { script.text = 'window.ran = true'; document.body.append(script); } catch { }
            try { setTimeout('window.ran = true', 0); } catch { }
            const image = new Image();
            image.onload = image.onerror = (event) => { outcome.image = event.type; };
            image.src = 'http://127.0.0.1:9/x.png';
            fetch('http://127.0.0.1:9/').catch(() => { outcome.fetch = 'refused'; });
            setTimeout(() => done({ ...outcome, ran: window.ran }), 300);
            """
        )
        self.assertEqual(tried, {"html": "refused", "image": "error", "fetch": "refused", "ran": False})

    def test_the_pure_parts_keep_their_promises(self):
        self.open()
        folder = self.js("return document.querySelector('script[type=module]').src.replace('boot.js', '')")
        outcome = self.driver.execute_async_script((HERE / "unit.js").read_text(), folder)
        self.assertGreater(len(outcome), 10)
        for name, failure in outcome.items():
            with self.subTest(name):
                self.assertIsNone(failure)


class DashboardPage(PageTest):
    def number(self, selector):
        text = self.find(selector).text.split()
        return float(text[0]) * {"k": 1e3, "M": 1e6}.get(text[1] if len(text) > 1 else "", 1) if text and text[0] != "–" else 0

    def test_the_numbers_move_under_load(self):
        self.open(GREEDY | {"max_tokens": "1500"})
        self.driver.get(self.server.address + "/#/both/")
        browser.wait_ready(self.driver)
        wait(self.driver, lambda: self.all("[data-fact='Generated tokens']"))
        before = self.js("return document.querySelector('canvas.heat').toDataURL()")
        self.send(LONG)
        wait(self.driver, lambda: self.number("#tile-decode strong") > 1)
        wait(self.driver, lambda: self.number("#tile-running strong") == 1)
        wait(self.driver, lambda: self.number("#tile-batch strong") >= 1)
        wait(self.driver, lambda: self.find("[data-fact='Forward pass']").text not in ("", "0.0 %"))
        wait(self.driver, lambda: self.find("[data-latency='inter_token_latency_seconds-p50']").text.endswith("ms"))
        wait(self.driver, lambda: not self.find("[data-fact='Pages used / prefixes / all']").text.startswith("0 "))
        wait(self.driver, lambda: self.find("[data-fact='DRAM']").text.endswith("B/s") and self.find("[data-fact='DRAM']").text != "0 B/s")
        self.assertEqual(self.find("[data-fact='State']").text, "off")  # no speculation here
        self.assertEqual(self.find("[data-fact='PCIe']").text, "no device")
        self.assertNotEqual(self.js("return document.querySelector('canvas.heat').toDataURL()"), before)
        size = self.js("const c = document.querySelector('canvas.heat'); return [c.width, c.height]")
        self.assertEqual(size, [32, 4])
        canvas = self.find("canvas.heat")
        canvas.send_keys(Keys.ARROW_RIGHT)
        self.assertRegex(self.find(".heat-read").text, r"^Layer 1, expert 1: in host memory, \d+ tokens")
        self.find("#send").click()
        self.finish()
        wait(self.driver, lambda: self.number("#tile-decode strong") == 0)

    def test_a_device_s_figures_are_shown_against_their_ceilings(self):
        state = {"calls": 0}

        def offload(handler, _):
            state["calls"] += 1
            handler.reply(json.dumps(measure.offload_report(state["calls"])))

        def metrics(handler, _):
            calls = state["calls"]
            handler.reply(
                "longshore:spec_num_draft_tokens 3\nlongshore:spec_accept_length 2.4\nlongshore:spec_accept_rate 0.47\n"
                f"longshore:num_steps_total {calls}\n",
                "text/plain",
            )

        with Proxy(self.server.port, answers={"/v1/offload": offload, "/metrics": metrics}) as proxy:
            self.open(address=proxy.address)
            self.driver.get(proxy.address + "#/dashboard/")
            wait(self.driver, lambda: state["calls"] >= 3)
            wait(self.driver, lambda: "of 55.0 GB/s" in self.find("[data-fact='PCIe']").text)
            facts = {name: self.find(f"[data-fact='{name}']").text for name in ("Hit rate, now", "q*, best share fetched", "q, share fetched now")}
            self.assertEqual(facts, {"Hit rate, now": "60 %", "q*, best share fetched": "25 %", "q, share fetched now": "30 %"})
            self.assertIn("of 165 GB/s", self.find("[data-fact='DRAM']").text)
            self.assertEqual(self.find("[data-fact='State']").text, "on")
            self.assertEqual(self.find("[data-fact='Tokens drafted per step, k']").text, "3")
            self.assertEqual(self.find("[data-fact='Acceptance']").text, "47 %")
            self.assertRegex(self.find("canvas.heat").get_attribute("aria-label"), r"^78 layers of 256 experts, 3\d\d\d of 19968 on the device")


class Reach(PageTest):
    """Keyboard, screen reader, contrast, small screens."""

    def test_everything_can_be_done_with_the_keyboard(self):
        self.open()
        self.find("body").send_keys("/")
        self.assertEqual(self.js("return document.activeElement.id"), "prompt")
        ActionChains(self.driver).send_keys("one").key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).send_keys("two").perform()
        self.assertEqual(self.find("#prompt").get_attribute("value"), "one\ntwo")
        self.find("#prompt").clear()
        self.find("#prompt").click()
        ActionChains(self.driver).send_keys(LONG, Keys.ENTER).perform()
        wait(self.driver, lambda: self.answers() and len(self.answers()[0]) > 10)
        ActionChains(self.driver).send_keys(Keys.ESCAPE).perform()
        self.finish()
        self.assertEqual(self.find(".notice").text, "Stopped.")
        # Tab comes to every control that can be used, and each shows that it has the focus.
        wanted = self.js(
            """
            return [...document.querySelectorAll('button, input, textarea, select, summary, canvas, a[href]')]
              .filter((e) => e.checkVisibility({ visibilityProperty: true }) && !e.disabled && e.tabIndex >= 0).length;
            """
        )
        seen = set()
        self.js("document.activeElement.blur()")
        for _ in range(wanted + 10):
            ActionChains(self.driver).send_keys(Keys.TAB).perform()
            seen.add(self.driver.switch_to.active_element.id)
            outline = self.js("const e = document.activeElement; return e === document.body || e.id === 'prompt' || getComputedStyle(e).outlineStyle !== 'none'")
            self.assertTrue(outline, self.js("return document.activeElement.outerHTML"))
        self.assertGreaterEqual(len(seen), wanted)
        self.find("body").send_keys(Keys.ALT, "s")
        self.assertTrue(self.find("#settings").is_displayed())
        ActionChains(self.driver).send_keys(Keys.ESCAPE).perform()
        self.assertFalse(self.find("#settings").is_displayed())
        self.find("body").send_keys(Keys.ALT, "3")
        wait(self.driver, lambda: self.find("#dashboard").is_displayed())

    def test_everything_has_a_name(self):
        self.open()
        self.ask(SUM)
        self.click("#open-settings")
        self.js("document.querySelectorAll('dialog').forEach((dialog) => dialog.open || dialog.setAttribute('open', ''))")
        self.driver.execute_cdp_cmd("Accessibility.enable", {})
        nodes = self.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        self.driver.execute_cdp_cmd("Accessibility.disable", {})
        checked = 0
        for node in nodes:
            role = node.get("role", {}).get("value")
            if node.get("ignored") or role not in ("button", "textbox", "searchbox", "combobox", "link", "checkbox", "dialog", "image", "region"):
                continue
            checked += 1
            self.assertTrue(node.get("name", {}).get("value"), node)
        self.assertGreater(checked, 20)
        self.assertEqual(self.js("return document.documentElement.lang"), "en")

    def test_text_stands_out_in_both_themes(self):
        for dark in (False, True):
            browser.set_dark(self.driver, dark)
            self.open()
            self.ask(SUM)
            faint = self.js((HERE / "contrast.js").read_text())
            self.assertEqual(faint, [], "dark" if dark else "light")
            self.driver.get(self.server.address + "/#/dashboard/")
            wait(self.driver, lambda: self.all("[data-fact='q*, best share fetched']"))
            self.assertEqual(self.js((HERE / "contrast.js").read_text()), [], "dashboard, " + ("dark" if dark else "light"))

    def test_a_chosen_theme_stays(self):
        self.open()
        ground = lambda: self.js("return getComputedStyle(document.body).backgroundColor")
        light = ground()
        self.click("#open-settings")
        self.js("const t = document.getElementById('theme'); t.value = 'dark'; t.dispatchEvent(new Event('change'))")
        self.assertNotEqual(ground(), light)
        self.driver.refresh()
        browser.wait_ready(self.driver)
        self.assertNotEqual(ground(), light)

    def test_a_phone_shows_all_of_it(self):
        browser.resize(self.driver, PHONE)
        self.open(GREEDY | {"max_tokens": "40"})
        self.ask(LONG)
        fits = lambda: self.js("return document.documentElement.scrollWidth <= innerWidth && [...document.querySelectorAll('main, #dashboard, #bar')].every((e) => !e.checkVisibility() || e.scrollWidth <= e.clientWidth)")
        self.assertTrue(fits())
        self.assertFalse(self.find("#sidebar").is_displayed())
        self.click("#open-sidebar")
        wait(self.driver, lambda: self.find("#sidebar").is_displayed())
        wait(self.driver, lambda: self.find("#conversations button").rect["x"] >= 0)
        self.find("#conversations button").click()
        wait(self.driver, lambda: not self.find("#sidebar").is_displayed())
        small = self.js("return [...document.querySelectorAll('#bar button, #composer button')].filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 31).map((e) => e.id || e.className)")
        self.assertEqual(small, [], "too small for a finger")
        self.click("[data-to=dashboard]")
        wait(self.driver, lambda: self.find("#dashboard").is_displayed())
        self.assertTrue(fits())


class Speed(PageTest):
    """The figures of docs/PERF.md by the same code, so loosely that a busy machine passes; measure.py has them exactly."""

    expected_errors = ("favicon.ico",)  # a plain text names no icon

    def test_the_first_paint_comes_soon(self):
        self.open()
        plain = self.js("return document.getElementById('licences').href")
        # What the machine needs to paint a plain text, in turn: a busy one is slow with anything.
        texts, paints = zip(*[(measure.first_paint(self.driver, plain), measure.first_paint(self.driver, self.server.address + "/")) for _ in range(5)])
        self.assertLess(min(paints), max(200, 2.5 * min(texts)))

    def test_a_frame_s_scripts_leave_time_for_the_rest(self):
        frames = measure.replay(self.server.port, seconds=4)
        self.assertGreater(len(frames), 60)
        self.assertLess(measure.percentile(frames, 0.5), 4)


class Delivery(PageTest):
    def ask_server(self, path, headers=None, method="GET"):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer, body

    def files(self):
        _, body = self.ask_server("/", {"Accept": "text/html"})
        found = {match.decode() for match in re.findall(rb'(?:href|src)="(page/[^"]+)"', body)}
        folder = next(path for path in found if path.endswith("boot.js")).removesuffix("boot.js")
        modules = re.search(rb'data-modules="([^"]+)"', body).group(1).decode().split()
        self.assertIn("main.js", modules)
        return ["/"] + sorted("/" + path for path in found | {folder + name for name in [*modules, "prism.js"]})

    def test_all_files_together_are_under_300_kb_compressed(self):
        total = 0
        for path in self.files():
            answer, body = self.ask_server(path, {"Accept": "text/html", "Accept-Encoding": "gzip, br"})
            self.assertEqual((answer.status, answer.getheader("Content-Encoding")), (200, "gzip"), path)
            total += len(body)
        self.assertGreater(total, 20_000)
        self.assertLess(total, 300_000)

    def test_the_page_needs_no_other_host(self):
        for path in self.files():
            if "licences" in path:
                continue
            _, body = self.ask_server(path, {"Accept": "text/html"})
            for found in re.findall(rb"(?:src|href|import|url|fetch)\s*[=(]?\s*[\"'(](?:https?:)?//[^\"')]+", body):
                self.fail(f"{path}: {found}")


if __name__ == "__main__":
    unittest.main()
