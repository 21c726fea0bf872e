"""A proxy in front of the built server: under a path, as behind a reverse proxy, or with answers of its own in place of some."""

import http.client
import http.server
import json
import threading
import time

HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive", "date", "server"}


class Proxy:
    """answers: {path: function(handler, body)} replaces what the server would say. prefix: "/ai", which is stripped."""

    def __init__(self, upstream_port, prefix="", answers=None):
        outer = self
        self.requests = []  # (method, path, headers)

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def handle_any(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                path = self.path
                outer.requests.append((self.command, path, dict(self.headers)))
                if not path.startswith(prefix + "/"):
                    self.send_error(404)
                    return
                path = path[len(prefix) :]
                own = (answers or {}).get(path.split("?")[0])
                try:
                    if own:
                        own(self, body)
                    else:
                        self.forward(path, body)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            do_GET = do_POST = do_HEAD = do_OPTIONS = handle_any

            def forward(self, path, body):
                connection = http.client.HTTPConnection("127.0.0.1", upstream_port, timeout=60)
                headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
                connection.request(self.command, path, body or None, headers)
                answer = connection.getresponse()
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in HOP_BY_HOP:
                        self.send_header(name, value)
                streamed = answer.getheader("Content-Length") is None and answer.status not in (204, 304)
                if streamed:
                    self.send_header("Connection", "close")
                    self.close_connection = True
                self.end_headers()
                while piece := answer.read1(65536):
                    self.wfile.write(piece)
                connection.close()

            def reply(self, data, content_type="application/json"):
                data = data if isinstance(data, bytes) else data.encode()
                self.send_response_only(200)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def stream(self, deltas, seconds_between=0.0, finish="stop"):
                """Chunks of one chat completion; a delta is {"content": ...} or the like."""
                self.send_response_only(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.close_connection = True
                self.end_headers()
                begin = time.monotonic()
                count = 0
                for count, delta in enumerate(deltas, 1):
                    self.wfile.write(event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}))
                    ahead = begin + count * seconds_between - time.monotonic()
                    if ahead > 0:
                        time.sleep(ahead)
                self.wfile.write(event({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}))
                usage = {"prompt_tokens": 10, "completion_tokens": count, "total_tokens": 10 + count}
                self.wfile.write(event({"choices": [], "usage": usage}))
                self.wfile.write(b"data: [DONE]\n\n")

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass  # a browser that goes away is no news

        self.server = Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}{prefix}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def event(data):
    return b"data: " + json.dumps(data).encode() + b"\n\n"
