"""SIGTERM under load: what was accepted is answered, what is not done in time ends with a clear error."""

import asyncio
import json
import signal
import time
import unittest

from serving import Server
from wire import ask, chat, request_bytes


def load(port, streams, tokens):
    return [
        asyncio.create_task(
            ask(port, request_bytes("/v1/chat/completions", chat(f"Compute {i} + 5.", tokens, stream=i % 2 == 0)))
        )
        for i in range(streams)
    ]


class Drain(unittest.IsolatedAsyncioTestCase):
    async def test_sigterm_under_load_loses_nothing_that_was_accepted(self):
        with Server("--drain-seconds", "60") as server:
            tasks = load(server.port, 64, 24)
            await asyncio.sleep(0.3)
            server.terminate()
            replies = await asyncio.gather(*tasks)
            self.assertEqual(await asyncio.to_thread(server.wait), 0)
        for number, reply in enumerate(replies):
            self.assertEqual((reply.status, reply.complete), (200, True), reply.text[-200:])
            if number % 2 == 0:
                self.assertEqual(reply.events[-1], "[DONE]")
            else:
                self.assertEqual(json.loads(reply.text)["usage"]["completion_tokens"], 24)

    async def test_what_takes_too_long_ends_with_an_error(self):
        with Server("--drain-seconds", "0.5") as server:
            tasks = load(server.port, 8, 7000)
            await asyncio.sleep(0.5)
            server.terminate()
            replies = await asyncio.gather(*tasks)
            self.assertEqual(await asyncio.to_thread(server.wait), 130)
        for number, reply in enumerate(replies):
            self.assertTrue(reply.complete)
            self.assertIn("shutting down", reply.text)
            if number % 2 == 1:
                self.assertEqual(reply.status, 503)

    async def test_a_second_signal_ends_at_once(self):
        with Server("--drain-seconds", "60") as server:
            tasks = load(server.port, 4, 7000)
            await asyncio.sleep(0.5)
            begin = time.monotonic()
            server.terminate()
            await asyncio.sleep(0.2)
            server.process.send_signal(signal.SIGINT)
            self.assertEqual(await asyncio.to_thread(server.wait, 10), 128 + signal.SIGINT)
            self.assertLess(time.monotonic() - begin, 5)
            await asyncio.gather(*tasks)


if __name__ == "__main__":
    unittest.main()
