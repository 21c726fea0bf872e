"""Many streams at once: every one must be answered whole. Prints rates and latencies.

python load.py [--streams 256] [--tokens 64] [--port N: a server that runs already]"""

import argparse
import asyncio
import json
import time

from prometheus_client.parser import text_string_to_metric_families

from serving import Server, metric
from wire import ask, chat, percentile, request_bytes


async def one(port, number, tokens):
    begin = time.monotonic()
    body = chat(f"Compute {number} + {number * 7 % 90}.", tokens, stream_options={"include_usage": True})
    reply = await ask(port, request_bytes("/v1/chat/completions", body))
    assert reply.status == 200 and reply.complete, (reply.status, reply.text[-300:])
    events = reply.events
    assert events[-1] == "[DONE]", events[-1]
    usage = json.loads(events[-2])["usage"]
    assert usage["completion_tokens"] == tokens, usage
    # The first event names the role; the second holds the first text.
    return reply.times[1] - begin, [b - a for a, b in zip(reply.times[1:-2], reply.times[2:-2])]


async def metrics(port):
    reply = await ask(port, b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
    return list(text_string_to_metric_families(reply.text))


async def run(port, streams, tokens):
    begin = time.monotonic()
    results = await asyncio.gather(*(one(port, number, tokens) for number in range(streams)))
    seconds = time.monotonic() - begin
    first = [result[0] for result in results]
    gaps = [gap for result in results for gap in result[1]]
    families = await metrics(port)
    parts = {part: metric(families, "step_seconds_total", part=part) for part in ("plan", "forward", "sample", "deliver")}
    overhead = (parts["plan"] + parts["deliver"]) / sum(parts.values())
    print(f"{streams} streams of {tokens} tokens in {seconds:.2f} s: {streams * tokens / seconds:.0f} tokens/s")
    print(f"first token: p50 {percentile(first, 0.5):.3f} s, p99 {percentile(first, 0.99):.3f} s")
    print(f"between tokens, at the client: p50 {percentile(gaps, 0.5) * 1e3:.1f} ms, p99 {percentile(gaps, 0.99) * 1e3:.1f} ms")
    print(f"engine: {', '.join(f'{part} {value:.2f} s' for part, value in parts.items())}; plan + deliver {overhead:.1%}")
    assert metric(families, "num_running_reqs") == 0 and metric(families, "num_queue_reqs") == 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--port", type=int)
    parser.add_argument("--flags", default="", help="of the server")
    options = parser.parse_args()
    if options.port:
        asyncio.run(run(options.port, options.streams, options.tokens))
        return
    with Server(*options.flags.split()) as server:
        asyncio.run(run(server.port, options.streams, options.tokens))
        print(f"RSS {server.rss_mib():.0f} MiB")


if __name__ == "__main__":
    main()
