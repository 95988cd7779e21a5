"""Open a bundled program in headless Chromium and print what it prints.

    python browser.py connect|grpc-web example ADDRESS
    python browser.py connect|grpc-web conformance ADDRESS SUITE

ADDRESS is the server's web port. The page is served from a port of its own, so the server has to allow its origin.
"""

import subprocess
import sys
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

PAGE = '<meta charset="utf-8"><body style="white-space: pre"></body><script type="module" src="/program.js"></script>'


def serve(files: dict[str, tuple[str, bytes]]) -> tuple[ThreadingHTTPServer, list[str], Event]:
    """Serve files by path, and take what is posted; the event is set once something was."""
    printed, done = [], Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, body = files.get(self.path.partition("?")[0], ("text/plain", b""))
            self.send_response(200)
            self.send_header("content-type", kind)
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            printed.append(self.rfile.read(int(self.headers["content-length"])).decode())
            self.send_response(200)
            self.end_headers()
            done.set()

        def log_message(self, *_: object) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler), printed, done


def main(protocol: str, name: str, address: str, suite: str = "") -> int:
    """Run a program; the exit status is 1 if the page printed nothing within 200 seconds."""
    program = Path(__file__).parent / f"build/browser_{name}.js"
    files = {"/": ("text/html", PAGE.encode()), "/program.js": ("text/javascript", program.read_bytes())}
    if suite:
        files["/suite"] = ("application/json", Path(suite).read_bytes())
    server, printed, done = serve(files)
    url = f"http://127.0.0.1:{server.server_port}/?server=http://{address}&protocol={protocol}"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        command = ["chromium", *flags, f"--user-data-dir={profile}", url]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as chromium:
            Thread(target=server.serve_forever, daemon=True).start()
            done.wait(200)
            chromium.terminate()
    server.shutdown()
    print("".join(printed))
    return int(not printed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
