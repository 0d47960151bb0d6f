"""The page's server: starlette and uvicorn, which Flower brings along."""

import hashlib
import json
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from edgessl.errors import ConfigError, FederationError
from federated.dashboard.page import live, page
from federated.dashboard.summary import log_of, read

HOST = "127.0.0.1"  # and no other: whoever reaches the page sees every device of the fleet
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def application(log: Path, name: str) -> Starlette:
    """The page of the round log at `log`.

    `/` is the frame, `/live` what is in it (304 while the log is the same), `/rounds.json` the rounds' records. Only
    requests to this machine's own names are answered, so that no other site's page can ask in a browser's name.
    """
    cached: dict[str, str] = {}

    def frame(request: Request) -> Response:
        return HTMLResponse(page(name), headers=_HEADERS)

    def script(request: Request) -> Response:
        text = (Path(__file__).parent / "live.js").read_text()
        return Response(text, media_type="text/javascript", headers=_HEADERS)

    def part(request: Request) -> Response:
        tag = _tag(log)
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304)
        if tag not in cached:
            cached.clear()
            try:
                cached[tag] = live(read(log))
            except FederationError as error:  # a log that was tampered with is what this page should say
                return Response(str(error), status_code=500, media_type="text/plain", headers=_HEADERS)
        return HTMLResponse(cached[tag], headers={**_HEADERS, "ETag": tag})

    def rounds(request: Request) -> Response:
        return JSONResponse(json.loads(json.dumps(read(log).rounds)), headers=_HEADERS)

    routes = [Route("/", frame), Route("/live", part), Route("/live.js", script), Route("/rounds.json", rounds)]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])])


def serve(directory: Path, port: int, ready: Callable[[str], None]) -> None:
    """Serve the page of a run's directory until interrupted; `ready` gets its address. ConfigError without a log."""
    log = log_of(directory)
    listener = _bound(port)
    ready(f"http://{HOST}:{listener.getsockname()[1]}/")
    uvicorn.Server(uvicorn.Config(application(log, directory.resolve().name), log_level="warning")).run([listener])


def _bound(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"port {port} of {HOST}: {error.strerror}; give another --port, or 0 for any") from None
    return listener


def _tag(log: Path) -> str:
    """Changes with the log: its length and the time of the last change."""
    found = log.stat()
    return '"' + hashlib.sha256(f"{found.st_size} {found.st_mtime_ns}".encode()).hexdigest()[:16] + '"'
