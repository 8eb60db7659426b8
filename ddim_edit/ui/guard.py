"""Serve the page only to the user who started it, not to other users of the machine or to other web pages.

A server on 127.0.0.1 can be reached by every user of the machine and, through the browser, by every web page that its
owner visits. `PageGuard` stands in front of the application and answers a request only if

- it carries the token of this run (in the address that is printed, as Jupyter does it, then in a cookie);
- its Host is one that the page is served under, else a foreign name could be pointed at this machine (DNS rebinding);
- its Origin, if any, is the page itself, whatever the method;
- it asks for something that the page uses, by path and method: gradio serves many more routes;
- every file that it names was uploaded in this run or made by it, by resolved path. gradio checks that only for pages
  that it launches itself, and copies the file before a handler can object;
- its body is neither larger nor slower than the page's own ever are.
"""

import asyncio
import hmac
import json
import logging
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOG = logging.getLogger(__name__)

LARGEST_UPLOAD = 100 * 2**20
LARGEST_REQUEST = 2**20
"""Bytes of an upload, and of any other body: the values of all widgets of the page are a few kilobytes."""
SLOWEST = 30.0
"""Seconds that a sender may be silent in the middle of a body."""
UPLOAD = "/gradio_api/upload"
JOIN = "/gradio_api/queue/join"
FILE = "/gradio_api/file="
# What a browser that shows the page was seen to ask for, gradio 6.31.
READABLE = {
    "/",
    "/config",
    "/favicon.ico",
    "/gradio_api/queue/data",
    "/gradio_api/startup-events",
    "/gradio_api/upload_progress",
    "/theme.css",
}
READABLE_UNDER = ("/assets/", "/static/", "/gradio_api/heartbeat/", FILE)
WRITABLE = {UPLOAD, JOIN, "/gradio_api/cancel", "/gradio_api/reset"}
# gradio's page is built of inline scripts and styles. It loads nothing from elsewhere and no frame may hold it.
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; worker-src 'self' blob:; "
        "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class RefusedRequestError(Exception):
    """A request that is not answered."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class PageGuard:
    """ASGI middleware that answers only the page's own requests.

    Args:
        app: the page.
        port: where it is served, on the loopback interface.
        token: the secret of this run.
        folder: the only folder whose files a request may name, resolved.
    """

    def __init__(self, app: ASGIApp, port: int, token: str, folder: Path) -> None:
        self._app = app
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}
        self._token = token
        # Cookies do not know ports: two pages at once would overwrite each other's.
        self._cookie = f"ddim-edit-{port}"
        self._folder = folder.resolve()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # The page uses no websockets. Closing one before it is accepted answers it with 403.
            await send({"type": "websocket.close", "code": 1008})
            return
        send = _with_security_headers(send)
        try:
            self._check_sender(scope)
            response = self._log_in(scope)
            if response is None:
                self._check_route(scope)
                receive = await self._checked_body(scope, receive)
        except RefusedRequestError as refused:
            response = PlainTextResponse(f"{refused}\n", refused.status, {"Connection": "close"})
        if response is not None:
            await response(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        except ClientDisconnect:
            pass  # a sender that stops in the middle of an upload is no error of the page
        except Exception as error:
            # It was answered with status 500. Requests that the page never makes are not worth a traceback.
            _LOG.warning("%s %.60r failed: %s: %.200s", scope["method"], scope["path"], type(error).__name__, error)

    def _check_sender(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            raise RefusedRequestError(421, "This page is served under its own address only.")
        own = {f"http://{host}" for host in self._hosts}
        if any(origin.lower() not in own for origin in headers.getlist("origin")):
            raise RefusedRequestError(403, "Requests of other sites are refused.")
        # Opening the page from a link or from a file is a navigation; anything else from another site is an attack.
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and (
            scope["path"] != "/" or headers.get("sec-fetch-mode") != "navigate"
        ):
            raise RefusedRequestError(403, "Requests of other sites are refused.")

    def _log_in(self, scope: Scope) -> Response | None:
        """Return None for a request with the cookie, and the answer that sets it for one with the token."""
        if self._is_token(_cookie(scope, self._cookie)):
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        if scope["path"] != "/" or scope["method"] not in ("GET", "HEAD") or not self._is_token(given[-1]):
            raise RefusedRequestError(403, "Open the page at the address that ddim-edit printed: it ends in a token.")
        response = RedirectResponse("/", 303)
        # Lax, not strict: a strict cookie would be missing when the page is opened from a link.
        response.set_cookie(self._cookie, self._token, httponly=True, samesite="lax")
        return response

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token.encode())

    def _check_route(self, scope: Scope) -> None:
        path = scope["path"]
        method = scope["method"]
        readable = path in READABLE or path.startswith(READABLE_UNDER)
        if not (readable and method in ("GET", "HEAD")) and not (path in WRITABLE and method == "POST"):
            raise RefusedRequestError(404, "The page has nothing there.")
        if path.startswith(FILE):
            self._check_file(path.removeprefix(FILE))

    def _check_file(self, name: str) -> None:
        """Refuse all but regular files in the page's folder; links are followed first."""
        try:
            file = Path(name).resolve(strict=True)
            allowed = file.is_relative_to(self._folder) and file.is_file()
        except (OSError, RuntimeError, ValueError):
            # Too long a name, a loop of links, a zero byte; the same answer as for a file that is there.
            allowed = False
        if not allowed:
            raise RefusedRequestError(403, "Only files that were uploaded to this page can be read.")

    async def _checked_body(self, scope: Scope, receive: Receive) -> Receive:
        """Return what the application reads the body by, once it is known to be small and to name allowed files."""
        headers = MutableHeaders(scope=scope)
        if scope["method"] != "POST":
            return receive
        # The server cuts a body off at the announced length, so the length is all that has to be checked.
        length = headers.get("content-length", "")
        if not length.isascii() or not length.isdigit():
            raise RefusedRequestError(411, "Say how long the request is.")
        largest = LARGEST_UPLOAD if scope["path"] == UPLOAD else LARGEST_REQUEST
        if len(length) > 12 or int(length) > largest:
            raise RefusedRequestError(413, f"At most {largest // 2**20} MB at once.")
        receive = _with_timeout(receive)
        if scope["path"] == UPLOAD:
            return receive
        parts = []
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RefusedRequestError(408, "The request stopped in the middle.")
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        try:
            content = json.loads(b"".join(parts).decode("utf-8"))
            self._check_files(content)
            # Written anew, so that what was checked is what gradio reads: of two equal keys another parser might take
            # the other one. Half a surrogate pair, on which gradio fails, cannot be encoded.
            body = json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError):
            raise RefusedRequestError(400, "The request is not valid JSON.") from None
        if not isinstance(content, dict):
            raise RefusedRequestError(400, "The request is not a JSON object.")
        headers["content-length"] = str(len(body))
        headers["content-type"] = "application/json"
        return _replay(body, receive)

    def _check_files(self, content: Any) -> None:
        """Refuse values of widgets that name a file which the page may not read."""
        if isinstance(content, list):
            for value in content:
                self._check_files(value)
        elif isinstance(content, dict):
            if isinstance(content.get("path"), str):
                self._check_file(content["path"])
                # The address under which the browser shows the file; gradio makes it anew from the path.
                content.pop("url", None)
            for value in content.values():
                self._check_files(value)


def _cookie(scope: Scope, name: str) -> str:
    try:
        jar = SimpleCookie(Headers(scope=scope).get("cookie", ""))
    except CookieError:
        return ""
    return jar[name].value if name in jar else ""


def _with_timeout(receive: Receive) -> Receive:
    """Return a function that receives a body, and treats a sender that is silent for too long as disconnected."""
    complete = False

    async def receive_in_time() -> Message:
        nonlocal complete
        if complete:
            # Only the end of the connection is left to receive, after however long the answer takes.
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), SLOWEST)
        except TimeoutError:
            return {"type": "http.disconnect"}
        complete = not message.get("more_body", False)
        return message

    return receive_in_time


def _replay(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _with_security_headers(send: Send) -> Send:
    async def secured(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers[name] = value
        await send(message)

    return secured
