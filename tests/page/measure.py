"""How fast the page is: the first paint, and the scripts of a frame while tokens and figures come.

python tests/page/measure.py [--seconds 20]: the figures of docs/PERF.md. LONGSHORE names the program.
"""

import argparse
import json
import random
import statistics

import browser
from browser import find, load, wait
from proxy import Proxy
from selenium.webdriver.common.keys import Keys

SCRIPTS = {"EvaluateScript", "v8.evaluateModule", "FunctionCall", "FireAnimationFrame", "TimerFire", "RunMicrotasks", "v8.callFunction", "MinorGC", "MajorGC", "EventDispatch"}

# What models write: prose, a list, a table, code.
TEXT = """## A section

The *hull* is checked **before** the mast, as [the manual](https://example.org/manual) says; `bow()` comes first. It is a sentence
of some length, so that a paragraph grows for a while and is laid out anew with every frame in which it does.

- one point, with `code`
- another point, somewhat longer than the first one was
- a third

| layer | experts | GB/s |
|---|---|---:|
| 3 | 256 | 51.2 |
| 4 | 256 | 50.9 |

```python
def split(misses, wire, cpu):
    best = min(range(len(misses) + 1), key=lambda f: max(f / wire, (len(misses) - f) / cpu))
    return misses[:best], misses[best:]
```

"""


def first_paint(driver, address):
    """Milliseconds from the navigation's start to the first contentful paint, nothing in the browser's cache."""
    driver.get("about:blank")
    driver.execute_cdp_cmd("Network.clearBrowserCache", {})
    driver.get(address)
    return wait(
        driver,
        lambda: driver.execute_script(
            "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
        ),
    )


def pieces():
    """TEXT again and again in tokens of about four letters."""
    while True:
        for at in range(0, len(TEXT), 4):
            yield {"content": TEXT[at : at + 4]}


def replay(port, seconds, tokens_per_second=200):
    """Milliseconds of script in every frame (of the thread's own time: a shared machine counts for nothing), while that many tokens come and the map of 78 x 256 changes every second."""
    calls = {"offload": 0}

    def offload(handler, _):
        calls["offload"] += 1
        handler.reply(json.dumps(offload_report(calls["offload"])))

    def chat(handler, _):
        stream = pieces()
        handler.stream((next(stream) for _ in range(seconds * tokens_per_second)), 1 / tokens_per_second)

    driver = browser.start((1600, 1000), traced=True)
    try:
        with Proxy(port, answers={"/v1/offload": offload, "/v1/chat/completions": chat}) as proxy:
            load(driver, proxy.address)
            driver.get(proxy.address + "#/both/")
            wait(driver, lambda: calls["offload"] >= 2)
            find(driver, "#prompt").send_keys("Go" + Keys.ENTER)
            wait(driver, lambda: "paragraph" in find(driver, "#thread").text)
            driver.execute_script("console.timeStamp('begin')")  # load and sending are another matter
            wait(driver, lambda: find(driver, "#send").get_attribute("aria-label") == "Send", seconds + 30)
            return frames_of(driver.get_log("performance"))
    finally:
        driver.quit()


def frames_of(log):
    events = []
    for entry in log:
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Tracing.dataCollected":
            events.append(message["params"])
    marks = [e["ts"] for e in events if e.get("name") == "TimeStamp" and e["args"]["data"]["message"] == "begin"]
    begins = [(e["pid"], e["tid"], e["ts"]) for e in events if e.get("name") == "AnimationFrame::Render" and e["ph"] in "XBb"]
    if not begins:
        raise RuntimeError("the trace has no frames")
    # The page's thread is the one with most frames.
    thread = statistics.mode((pid, tid) for pid, tid, _ in begins)
    starts = sorted(ts for pid, tid, ts in begins if (pid, tid) == thread and ts >= marks[0])
    # Events too short for the thread's clock have no time of it.
    scripts = sorted(
        (e["ts"], e.get("dur", 0), e.get("tdur", 0)) for e in events if (e["pid"], e["tid"]) == thread and e.get("name") in SCRIPTS and e.get("ph") == "X"
    )
    spent = [0.0] * len(starts)
    frame, end = 0, 0
    for ts, wall, duration in scripts:
        if ts < end:
            continue  # within the one before
        end = ts + wall
        while frame + 1 < len(starts) and starts[frame + 1] <= ts:
            frame += 1
        if ts >= starts[0]:
            spent[frame] += duration / 1000
    return spent


def percentile(values, part):
    values = sorted(values)
    return values[min(len(values) - 1, int(part * len(values)))]


def offload_report(calls):
    """What a server with a GPU would say after so many seconds: 78 layers of 256 experts."""
    uses, resident = [], []
    for layer in range(78):
        rng = random.Random(layer)
        ranks = list(range(256))
        rng.shuffle(ranks)  # Zipf: few experts are wanted often, and those are on the device
        uses.append([int(calls * 900 / (rank + 1) ** 1.1 + (calls * 7919 * (rank + 3)) % 5) for rank in ranks])
        resident.append("".join("1" if rank + rng.randrange(-12, 12) < 40 else "0" for rank in ranks))
    counters = dict.fromkeys("routes routes_on_device prefetched prefetched_unused policy_seconds".split(), 0)
    counters |= {"routes": 1000 * calls, "routed_experts": 1000 * calls, "hits": 600 * calls, "fetched": 120 * calls}
    counters |= {"computed_on_cpu": 280 * calls, "wire_bytes": 40_000_000_000 * calls, "wire_seconds": 0.8 * calls}
    counters |= {"cpu_bytes": 90_000_000_000 * calls, "cpu_seconds": 0.7 * calls, "handshakes": 75 * calls, "handshake_seconds": 0.001 * calls}
    return {
        "device": {"name": "cuda", "slots": 3120, "experts": 3120, "pool_bytes": 3120 * 37_750_000},
        "host": {"experts": 19968, "expert_bytes": 37_750_000, "bytes": 19968 * 37_750_000},
        "layers": 78,
        "first_layer": 3,
        "experts_per_layer": 256,
        "resident": resident,
        "uses": uses,
        "ceilings": {"wire_bytes_per_second": 55e9, "cpu_bytes_per_second": 165e9, "dram_bytes_per_second": 0},
        "rates": {"wire_bytes_per_second": 53e9, "cpu_bytes_per_second": 159e9},
        "counters": counters,
    }


def main():
    from serving import Server

    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=20)
    seconds = parser.parse_args().seconds
    with Server() as server:
        driver = browser.start()
        paints = [first_paint(driver, server.address + "/") for _ in range(20)]
        driver.quit()
        print(f"first contentful paint, 20 loads: median {statistics.median(paints):.0f} ms, longest {max(paints):.0f} ms")
        frames = replay(server.port, seconds)
    over = sum(one > 4 for one in frames)
    print(
        f"scripts per frame, {len(frames)} frames: median {statistics.median(frames):.2f} ms, 95 % {percentile(frames, 0.95):.2f} ms,"
        f" 99 % {percentile(frames, 0.99):.2f} ms, longest {max(frames):.2f} ms; over 4 ms: {over}"
    )


if __name__ == "__main__":
    main()
