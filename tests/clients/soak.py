"""Mixed work for a while: long, short, cancelled, malformed. No error that is not deserved, no growth, nothing left over.

python soak.py [--seconds 600] [--clients 24]"""

import argparse
import asyncio
import random
import time

from prometheus_client.parser import text_string_to_metric_families

from serving import Server, metric
from wire import ask, chat, percentile, request_bytes

PATH = "/v1/chat/completions"
MALFORMED = [
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"GET / HTTP/1.1\nHost: a\n\n",
    b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    request_bytes(PATH, b'{"messages": ['),
    request_bytes(PATH, b"[" * 100_000),
    request_bytes(PATH, b'{"messages": "\xff"}'),
    request_bytes(PATH, {"messages": [{"role": "user", "content": 5}]}),
    request_bytes(PATH, chat("a", -3)),
    request_bytes("/v1/messages", {"max_tokens": 5}),
    request_bytes("/nowhere", b"{}"),
    request_bytes("/tokenize", {"messages": [{"role": "user", "content": 5}]}),
    request_bytes("/tokenize", {"messages": [{"role": "user", "content": "a"}], "tools": [1]}),
    request_bytes("/tokenize", {"messages": [{"role": "user", "content": "a"}], "tools": {"a": 1}}),
    request_bytes("/tokenize", {"messages": [{"role": "assistant", "tool_calls": [
        {"function": {"name": "f", "arguments": "["}}]}]}),
    request_bytes("/tokenize", {"messages": [{"role": "assistant", "tool_calls": [
        {"function": {"name": "f", "arguments": [1]}}]}]}),
]


class Soak:
    def __init__(self, port):
        self.port = port
        self.count = {}
        self.gaps = []
        self.first = []

    async def short(self):
        tokens = random.randint(1, 30)
        reply = await ask(self.port, request_bytes(PATH, chat(f"Compute {random.randint(1, 99)} + 3.", tokens, stream=False)))
        assert reply.status == 200 and reply.complete, reply.text

    async def stream(self):
        begin = time.monotonic()
        reply = await ask(self.port, request_bytes(PATH, chat(f"Compute {random.randint(1, 99)} + 3.", random.randint(5, 80))))
        assert reply.status == 200 and reply.complete and reply.events[-1] == "[DONE]", reply.text[-300:]
        self.first.append(reply.times[1] - begin)
        self.gaps += [b - a for a, b in zip(reply.times[1:-1], reply.times[2:-1])]

    async def long(self):
        text = f"{random.random()} " + "The code of Tinul is 9264. " * random.randint(20, 150) + "What is the code of Tinul?"
        reply = await ask(self.port, request_bytes(PATH, chat(text, 8)))
        assert reply.status == 200 and reply.complete and reply.events[-1] == "[DONE]", reply.text[-300:]

    async def fill(self, number):
        """One of the prompts that write every page of the cache."""
        reply = await ask(self.port, request_bytes(PATH, chat(f"{number} " * 1900, 4)))
        assert reply.status == 200 and reply.complete, reply.text[-300:]

    async def cancelled(self):
        await ask(self.port, request_bytes(PATH, chat("Goodbye!", 3000)), stop_after=random.randint(1, 10))

    async def gone_at_once(self):
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request_bytes(PATH, chat("Goodbye!", 3000, stream=random.random() < 0.5)))
        await asyncio.sleep(random.random() * 0.05)
        writer.transport.abort()

    async def malformed(self):
        reply = await ask(self.port, random.choice(MALFORMED))
        assert 400 <= reply.status < 500, (reply.status, reply.text)

    async def client(self, until):
        kinds = [self.short, self.stream, self.long, self.cancelled, self.gone_at_once, self.malformed]
        weights = [4, 6, 1, 2, 2, 4]
        while time.monotonic() < until:
            (kind,) = random.choices(kinds, weights)
            await kind()
            self.count[kind.__name__] = self.count.get(kind.__name__, 0) + 1

    async def idle_metrics(self):
        for _ in range(200):
            reply = await ask(self.port, b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
            families = list(text_string_to_metric_families(reply.text))
            if metric(families, "num_running_reqs") == 0 and metric(families, "num_queue_reqs") == 0:
                return families
            await asyncio.sleep(0.05)
        raise AssertionError("requests are left over")


async def run(server, seconds, clients):
    soak = Soak(server.port)
    # Warm: the pages of the cache, which take memory when they are first written, and the allocator at this load.
    await asyncio.gather(*(soak.fill(i) for i in range(3)))
    await asyncio.gather(*(soak.client(time.monotonic() + seconds / 3) for _ in range(clients)))
    warm = server.rss_mib()
    soak.gaps, soak.first = [], []
    await asyncio.gather(*(soak.client(time.monotonic() + seconds * 2 / 3) for _ in range(clients)))
    families = await soak.idle_metrics()
    end = server.rss_mib()
    print(f"{seconds} s, {clients} clients: {soak.count}")
    print(f"first token: p50 {percentile(soak.first, 0.5):.3f} s, p99 {percentile(soak.first, 0.99):.3f} s")
    print(f"between tokens, at the client: p50 {percentile(soak.gaps, 0.5) * 1e3:.1f} ms, p99 {percentile(soak.gaps, 0.99) * 1e3:.1f} ms")
    print(f"RSS after a third {warm:.0f} MiB, at the end {end:.0f} MiB")
    assert server.process.poll() is None
    assert metric(families, "token_usage") == 0
    assert metric(families, "num_open_connections") <= 2
    for family in families:
        for sample in family.samples:
            if sample.name == "longshore:http_responses_total":
                assert not sample.labels["status"].startswith("5"), sample
    assert end < warm * 1.25 + 16, "memory grows"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    # A cache that fills within seconds, so that eviction and preemption take part.
    parser.add_argument("--flags", default="--context-length 4096 --max-total-tokens 8192", help="of the server")
    options = parser.parse_args()
    random.seed(options.seed)
    with Server(*options.flags.split()) as server:
        asyncio.run(run(server, options.seconds, options.clients))


if __name__ == "__main__":
    main()
