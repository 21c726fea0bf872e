"""curl and a real Prometheus parser."""

import json
import pathlib
import shlex
import subprocess
import tempfile
import unittest

from prometheus_client.parser import text_string_to_metric_families

from serving import Server, metric

HISTOGRAMS = {
    "time_to_first_token_seconds": (".1 .2 .4 .6 .8 1 2 4 6 8 10 20 40 60 80 100 200 400", True),
    "e2e_request_latency_seconds": (".1 .2 .4 .6 .8 1 2 4 6 8 10 20 40 60 80 100 200 400 600 1200 1800 2400", True),
    "inter_token_latency_seconds": (
        ".002 .004 .006 .008 .01 .015 .02 .025 .03 .035 .04 .06 .08 .1 .2 .4 .6 .8 1 2 4 6 8",
        False,
    ),
}
GAUGES = "num_running_reqs num_queue_reqs token_usage kv_used_tokens cache_hit_rate gen_throughput".split()
COUNTERS = (
    "prompt_tokens generation_tokens cached_tokens prefix_cache_queries prefix_cache_hits num_requests"
    " num_aborted_requests num_retracted_requests"
).split()


def curl(*arguments):
    return subprocess.run(["curl", "-sS", "--max-time", "60", *arguments], capture_output=True, text=True, check=True).stdout


class Http(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()

    def chat(self, **more):
        body = {"model": "glm-nano", "messages": [{"role": "user", "content": "Say exactly: Omapel"}], "temperature": 0}
        return curl(self.server.address + "/v1/chat/completions", "-H", "Content-Type: application/json", "-d", json.dumps(body | more))

    def scrape(self):
        return list(text_string_to_metric_families(curl(self.server.address + "/metrics")))

    def test_the_printed_curl_line_works(self):
        command = shlex.split(self.server.curl)
        self.assertEqual(command[0], "curl")
        answer = json.loads(curl(*command[1:]))
        self.assertEqual(answer["choices"][0]["message"]["content"], "40")

    def test_a_stream_on_the_wire(self):
        events = self.chat(stream=True).strip().split("\n\n")
        self.assertTrue(all(event.startswith("data: ") for event in events))
        self.assertEqual(events[-1], "data: [DONE]")
        chunks = [json.loads(event[6:]) for event in events[:-1]]
        self.assertEqual(chunks[0]["choices"][0]["delta"]["role"], "assistant")
        self.assertEqual("".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks), "Omapel")
        self.assertEqual(chunks[-1]["choices"][0]["finish_reason"], "stop")

    def test_a_large_body_with_expect_continue(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "body.json"
            path.write_text(json.dumps({"prompt": "seven plus nine " * 100_000}))
            answer = json.loads(curl(self.server.address + "/tokenize", "-H", "Expect: 100-continue", "--data-binary", f"@{path}"))
        self.assertGreater(answer["count"], 300_000)

    def test_http_versions(self):
        for flag in ("--http1.0", "--http1.1", "--http2"):
            self.assertEqual(json.loads(curl(flag, self.server.address + "/health")), {"status": "ok"})

    def test_metrics_parse_with_the_promised_names_types_and_buckets(self):
        self.chat()
        self.chat(stream=True, max_tokens=5, ignore_eos=True)
        families = self.scrape()
        types = {family.name: family.type for family in families}
        for name in GAUGES:
            self.assertEqual(types["longshore:" + name], "gauge", name)
        for name in COUNTERS:
            self.assertEqual(types["longshore:" + name], "counter", name)
        for name, (bounds, streaming) in HISTOGRAMS.items():
            family = next(family for family in families if family.name == "longshore:" + name)
            self.assertEqual(family.type, "histogram")
            buckets = [sample for sample in family.samples if sample.name.endswith("_bucket")]
            if streaming:
                buckets = [sample for sample in buckets if sample.labels["is_streaming"] == "True"]
            expected = [float(bound) for bound in bounds.split()] + [float("inf")]
            self.assertEqual([float(sample.labels["le"]) for sample in buckets], expected)
            self.assertGreater(buckets[-1].value, 0)
        for family in families:
            for sample in family.samples:
                self.assertEqual(sample.labels["model_name"], "glm-nano")

    def test_counters_count(self):
        before = self.scrape()
        self.chat(stream=True, max_tokens=7, ignore_eos=True)
        after = self.scrape()

        def grown(name, **labels):
            return metric(after, name, **labels) - metric(before, name, **labels)

        self.assertEqual(grown("generation_tokens_total", is_streaming="True"), 7)
        self.assertEqual(grown("generation_tokens_total", is_streaming="False"), 0)
        self.assertEqual(grown("num_requests_total"), 1)
        self.assertEqual(grown("time_to_first_token_seconds_count", is_streaming="True"), 1)
        self.assertEqual(grown("inter_token_latency_seconds_count"), 6)
        self.assertGreater(grown("prompt_tokens_total"), 5)
        self.assertGreater(grown("step_seconds_total", part="forward"), 0)


if __name__ == "__main__":
    unittest.main()
