"""A small asyncio HTTP client over raw sockets, for hundreds of streams at little cost."""

import asyncio
import json
import time


def request_bytes(path, body, headers=""):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: test\r\n{headers}Content-Length: {len(data)}\r\n\r\n".encode() + data


class Reply:
    def __init__(self):
        self.status = 0
        self.text = ""
        self.times = []  # of every data event
        self.complete = False

    @property
    def events(self):
        return [event[6:] for event in self.text.split("\n\n") if event.startswith("data: ")]


async def ask(port, data, stop_after=None):
    """Sends bytes on a new connection and reads the whole answer, or leaves after stop_after events."""
    reply = Reply()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        while head.startswith("HTTP/1.1 100"):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        reply.status = int(head.split()[1])
        lines = [line.lower() for line in head.split("\r\n")]
        if "transfer-encoding: chunked" in lines:
            await read_chunks(reader, reply, stop_after)
        else:
            length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length:"))
            reply.text = (await reader.readexactly(length)).decode()
            reply.complete = True
    except (asyncio.IncompleteReadError, ConnectionResetError, BrokenPipeError):
        pass
    finally:
        writer.close()
    return reply


async def read_chunks(reader, reply, stop_after):
    while True:
        size = int(await reader.readuntil(b"\r\n"), 16)
        piece = (await reader.readexactly(size + 2))[:size].decode()
        if size == 0:
            reply.complete = True
            return
        reply.text += piece
        reply.times += [time.monotonic()] * piece.count("data: ")
        if stop_after is not None and len(reply.times) >= stop_after:
            return


def percentile(values, part):
    values = sorted(values)
    return values[min(len(values) - 1, int(part * len(values)))] if values else float("nan")


def chat(text, tokens, stream=True, **more):
    return {
        "model": "glm-nano",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": tokens,
        "stream": stream,
        "ignore_eos": True,
        "temperature": 0,
    } | more
