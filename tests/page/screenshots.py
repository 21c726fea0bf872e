"""The pictures of the README, with replayed answers and figures of the size of GLM-5.1.

python tests/page/screenshots.py FOLDER [--all]: writes PNG files; --all: every view in every theme and width.
"""

import argparse
import json
import math
import pathlib
import random

import browser
from browser import DESKTOP, PHONE, find, load, wait
from measure import offload_report
from proxy import Proxy
from selenium.webdriver.common.keys import Keys

THOUGHT = "The wire moves 53 GB/s and the CPU 159 GB/s, both at once. So of 8 misses about 2 are fetched."
ANSWER = """With both working at once, the step ends when the **slower side** ends. For *m* missing experts of *S* bytes:

| side | rate | 2 fetched, 6 computed |
|---|---:|---:|
| PCIe | 53 GB/s | 1.42 ms |
| CPU | 159 GB/s | 1.42 ms |

```python
def split(misses: int, wire: float, cpu: float) -> int:
    # how many to fetch, so that both sides end together
    return min(range(misses + 1), key=lambda f: max(f / wire, (misses - f) / cpu))
```

Both end after 1.42 ms, so `q* = 0.25`.
"""
TOOLS = [{"type": "function", "function": {"name": "measure_bandwidth", "parameters": {"type": "object", "properties": {"path": {"type": "string"}}}}}]


def metrics(step):
    """As the server would say it after so many seconds of serving."""
    rng = random.Random(7)
    speed = [96 + 22 * math.sin(i / 9) + rng.uniform(-6, 6) for i in range(step + 1)]
    tokens = sum(speed)
    prompts = sum(900 + 700 * (math.sin(i / 13) > 0.2) for i in range(step + 1))
    lines = {
        "generation_tokens_total": tokens, "prompt_tokens_total": prompts * 1.6, "cached_tokens_total": prompts * 0.6,
        'step_tokens_total{kind="decode"}': tokens, 'step_tokens_total{kind="prefill"}': prompts, "num_steps_total": step * 14,
        "num_running_reqs": 8, "num_queue_reqs": 2, "max_running_requests": 32,
        'step_seconds_total{part="forward"}': step * 0.89, 'step_seconds_total{part="sample"}': step * 0.021,
        'step_seconds_total{part="plan"}': step * 0.006, 'step_seconds_total{part="deliver"}': step * 0.011,
        'kv_pages{state="used"}': 412, 'kv_pages{state="cached"}': 233, 'kv_pages{state="free"}': 379,
        'kv_page_bytes{part="latent"}': 79 * 64 * 1152, 'kv_page_bytes{part="index"}': 79 * 64 * 132,
        "prefix_cache_queries_total": prompts * 1.6, "prefix_cache_hits_total": prompts * 0.6,
        "num_requests_total": 40 + step, "num_aborted_requests_total": 1,
        "spec_num_draft_tokens": 2, "spec_accept_length": 2.31, "spec_accept_rate": 0.66,
    }  # fmt: skip
    for name, middle in {"time_to_first_token": 0.9, "inter_token_latency": 0.071, "e2e_request_latency": 9.0, "request_queue_time": 0.3}.items():
        for bound in (0.02, 0.04, 0.06, 0.08, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8, 10, 20, 40):
            below = 1 / (1 + (middle / bound) ** 3)
            lines[f'{name}_seconds_bucket{{le="{bound}"}}'] = round(step * 40 * below)
        lines[f'{name}_seconds_bucket{{le="+Inf"}}'] = step * 40
    return "".join(f"longshore:{name} {value}\n" for name, value in lines.items())


def main():
    from serving import Server

    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--all", action="store_true")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    state = {"step": 0, "asked": 0}

    def scrape(handler, _):
        state["step"] += 1
        handler.reply(metrics(state["step"]), "text/plain")

    def offload(handler, _):
        handler.reply(json.dumps(offload_report(state["step"])))

    def chat(handler, _):
        state["asked"] += 1
        if state["asked"] == 1:
            call = {"index": 0, "id": "call_1", "function": {"name": "measure_bandwidth", "arguments": '{"path": "pcie+cpu"}'}}
            handler.stream([{"reasoning_content": piece} for piece in THOUGHT.split(" ")] + [{"tool_calls": [call]}], 0.02, "tool_calls")
        else:
            handler.stream([{"content": ANSWER[at : at + 4]} for at in range(0, len(ANSWER), 4)], 0.004)

    model = json.dumps({"data": [{"id": "glm-5.1", "created": 1, "max_model_len": 202752}]})
    answers = {
        "/metrics": scrape,
        "/v1/offload": offload,
        "/v1/chat/completions": chat,
        "/v1/models": lambda handler, _: handler.reply(model),
    }
    views = [(size, dark, view) for size in (DESKTOP, PHONE) for dark in (False, True) for view in ("chat", "dashboard", "both")]
    kept = {(DESKTOP, False, "both"), (DESKTOP, True, "dashboard"), (PHONE, False, "chat"), (PHONE, True, "dashboard")}
    if not arguments.all:
        kept |= {(PHONE, True, "chat")}
        views = [view for view in views if view in kept]
    driver = browser.start()
    try:
        with Server() as server, Proxy(server.port, answers=answers) as proxy:
            load(driver, proxy.address, {"tools": json.dumps(TOOLS), "system": "You know this machine.", "temperature": "0.7"})
            driver.get(proxy.address + "#/both/")
            find(driver, "#prompt").send_keys("How many of 8 missing experts should be fetched, and how many computed by the CPU?" + Keys.ENTER)
            wait(driver, lambda: driver.find_elements("css selector", ".results textarea"))
            find(driver, ".results textarea").send_keys('{"pcie_gbs": 53, "cpu_gbs": 159}')
            find(driver, ".results button").click()
            wait(driver, lambda: "0.25" in find(driver, "#thread").text and find(driver, "#send").get_attribute("aria-label") == "Send")
            address = driver.current_url.split("#/both/")[1]
            wait(driver, lambda: state["step"] >= 45, 90)
            for size, dark, view in views:
                if view == "both" and size == PHONE:
                    continue
                browser.resize(driver, size)
                browser.set_dark(driver, dark)
                driver.execute_script(f"location.hash = '#/{'c' if view == 'chat' else view}/{address}'")
                step = state["step"]
                if view != "chat":
                    wait(driver, lambda: state["step"] >= step + 3)
                driver.execute_async_script("setTimeout(arguments[0], 400)")
                name = f"{'phone' if size == PHONE else 'desktop'}-{'dark' if dark else 'light'}-{view}.png"
                driver.save_screenshot(str(arguments.folder / name))
    finally:
        driver.quit()


if __name__ == "__main__":
    main()
