"""Python's http.server, told what the experiments ask of a server: see servers.toml.

    python examples/own_server/serve.py DOCROOT PORT

It keeps connections open, answers GET for the files below DOCROOT (`static`), and
/compute?us=N after N microseconds of its own CPU time (`dynamic`).
"""

import sys
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # 1.0 would close after every reply
    disable_nagle_algorithm = True  # or a reply's body waits 40 ms for its head to arrive
    wbufsize = 1 << 16  # and with a buffer both leave at once

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path != "/compute":
            super().do_GET()
            return
        until_ns = time.thread_time_ns() + 1000 * int(parse_qs(url.query)["us"][0])
        while time.thread_time_ns() < until_ns:
            pass
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")

    def log_message(self, *_):
        pass  # a line a request would be measured too


class Server(ThreadingHTTPServer):
    request_queue_size = 4096  # 5 by default: most clients of an experiment would be refused


if __name__ == "__main__":
    docroot, port = sys.argv[1:]
    Server(("127.0.0.1", int(port)), partial(Handler, directory=docroot)).serve_forever()
