"""A web server on this machine that can be told to fail."""

import contextlib
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator
from time import sleep  # tests put another time.sleep in place for their clients


class Web(http.server.ThreadingHTTPServer):
    """Serves `files` (path -> bytes) and misbehaves as `faults` says.

    A fault is [times, what]: a status, 'truncate', 'stall' or ('redirect', path).
    `requests` lists (method, path) of what was asked for.
    """

    daemon_threads = True
    stall_seconds = 3.0

    def __init__(self):
        super().__init__(('127.0.0.1', 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list] = {}
        self.requests: list[tuple[str, str]] = []
        self.headers: dict[str, dict[str, str]] = {}

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.server_port}'

    def handle_error(self, *_):
        pass  # clients that hang up are what is tested

    def gets(self, path: str) -> int:
        return self.requests.count(('GET', path))

    def add_repo(self, repo: str, files: dict[str, bytes], revision='main') -> None:
        """Serves a repository as the Hugging Face hub does."""
        for name, content in files.items():
            path = f'/{repo}/resolve/{revision}/{name}'
            self.files[path] = content
            self.headers[path] = {'X-Repo-Commit': 'c' * 40, 'ETag': f'"{name}-1"'}


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Web
    protocol_version = 'HTTP/1.1'

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urllib.parse.unquote(self.path)
        self.server.requests.append((self.command, path))
        fault = self.server.faults.get(path)
        what = None
        if fault and fault[0] > 0:
            fault[0] -= 1
            what = fault[1]
        body = self.server.files.get(path)
        if isinstance(what, int) or (body is None and what is None):
            # As the hub does, so that clients remember what a commit does not have.
            told = {'X-Error-Code': 'EntryNotFound', 'X-Repo-Commit': 'c' * 40}
            return self.answer(what or 404, told, b'')
        if isinstance(what, tuple):
            return self.answer(302, {'Location': what[1]}, b'')
        if what == 'stall':
            sleep(self.server.stall_seconds)
        headers = self.server.headers.get(path, {})
        return self.answer(200, headers, body, cut=what == 'truncate')

    def answer(self, status, headers, body, cut=False):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if self.command == 'GET':
            self.wfile.write(body[: len(body) // 2] if cut else body)
            if cut:
                self.close_connection = True


@contextlib.contextmanager
def serving() -> Iterator[Web]:
    """Yields a server that runs in a thread."""
    with Web() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def as_json(content) -> bytes:
    return json.dumps(content).encode()
