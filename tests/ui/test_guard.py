"""Hostile requests to the page as it is served: nothing is read, written or hung, and the page goes on answering."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ddim_edit.ui.workspace import PREFIX, private_folder, remove_abandoned_folders

from .. import tiny
from ..waiting import HANG

SECRET = b"a secret of the owner of this machine"
JOIN = "/gradio_api/queue/join"
UPLOAD = "/gradio_api/upload"


@dataclass
class Served:
    """A page in a process of its own, and what lies around it."""

    process: subprocess.Popen[str]
    port: int
    token: str
    temporary: Path
    outside: Path

    @property
    def uploads(self) -> Path:
        (folder,) = self.temporary.glob(f"{PREFIX}*/gradio")
        return folder

    @property
    def cookie(self) -> dict[str, str]:
        return {"Cookie": f"ddim-edit-{self.port}={self.token}"}

    def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"", host: str | None = None
    ) -> tuple[int, bytes]:
        """Status and body of the answer to one request, with the cookie unless the headers say otherwise."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANG)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", f"127.0.0.1:{self.port}" if host is None else host)
        for name, value in {"Content-Length": str(len(body)), **self.cookie, **(headers or {})}.items():
            if value:
                connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read(2**16)
        connection.close()
        return answer.status, content

    def join(self, data: Any, content_type: str = "application/json") -> tuple[int, bytes]:
        """Ask for the view of a photo, the event that read any file."""
        body = {"data": data, "fn_index": 0, "session_hash": "hostile", "trigger_id": None, "event_data": None}
        return self.ask("POST", JOIN, {"Content-Type": content_type}, json.dumps(body).encode())

    def upload(self, name: str, content: bytes) -> Path:
        """Upload a file as the page does and return where it lies."""
        head = f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + content + b"\r\n--b--\r\n"
        status, answer = self.ask("POST", UPLOAD, {"Content-Type": "multipart/form-data; boundary=b"}, body)
        assert status == 200, answer
        return Path(json.loads(answer)[0])


@pytest.fixture(scope="module")
def served(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("guarded")
    outside, temporary = folder / "outside", folder / "tmp"
    outside.mkdir()
    temporary.mkdir()
    tiny.save_picture(outside / "private.png")
    (outside / "secret.txt").write_bytes(SECRET)
    os.mkfifo(outside / "fifo")
    with start_page(model, outside, temporary) as process:
        assert process.stdout is not None
        address = urlsplit(process.stdout.readline().strip())
        assert address.port is not None
        yield Served(process, address.port, address.query.removeprefix("token="), temporary, outside)
        process.send_signal(signal.SIGHUP)
        _, said = process.communicate(timeout=HANG)
    assert "Traceback" not in said, said
    assert not list(temporary.glob(f"{PREFIX}*"))


def start_page(model: Path, folder: Path, temporary: Path) -> subprocess.Popen[str]:
    """Start a page in a folder; it prints its address once it answers."""
    command = [sys.executable, "-m", "ddim_edit", "ui", "--port", "0", "--no-browser", "--model", str(model)]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(autouse=True)
def unharmed(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test the page answers, and holds no copy of what it was not given."""
    yield
    if "served" in request.fixturenames:
        served: Served = request.getfixturevalue("served")
        assert served.ask("GET", "/")[0] == 200
        copies = [file.read_bytes() for file in served.uploads.rglob("*") if file.is_file() and not file.is_symlink()]
        assert SECRET not in copies
        assert (served.outside / "private.png").read_bytes() not in copies


def test_address_sets_cookie_and_redirects_to_page(served: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=HANG)
    connection.request("GET", f"/?token={served.token}")
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    assert answer.headers["Set-Cookie"].startswith(served.cookie["Cookie"])
    assert "HttpOnly" in answer.headers["Set-Cookie"]
    answer.read()
    connection.request("GET", "/", headers=served.cookie)
    answer = connection.getresponse()
    assert answer.status == 200
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Frame-Options"] == "DENY"
    connection.close()


@pytest.mark.parametrize("path", ["/", "/?token=", "/?token=wrong", "/config", "/assets/", JOIN, "/favicon.ico"])
def test_requests_without_token_are_refused(served: Served, path: str) -> None:
    for cookie in ("", "ddim-edit-{port}=wrong", "ddim-edit-{port}=", "other={token}", '";,\t='):
        said = cookie.format(port=served.port, token=served.token)
        assert served.ask("GET", path, {"Cookie": said})[0] == 403, cookie


@pytest.mark.parametrize(
    "host",
    ["evil.com", "evil.com:{port}", "127.0.0.1", "127.0.0.1:80", "localhost.evil.com:{port}", "", "0.0.0.0:{port}"],
)
def test_other_hosts_are_refused(served: Served, host: str) -> None:
    assert served.ask("GET", "/", host=host.format(port=served.port))[0] in (400, 421)


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD"])
@pytest.mark.parametrize(
    "origin", ["http://evil.com", "null", "https://127.0.0.1:{port}", "http://127.0.0.1:1", "file://"]
)
def test_other_origins_are_refused(served: Served, method: str, origin: str) -> None:
    for path in ("/", UPLOAD, JOIN):
        status, _ = served.ask(method, path, {"Origin": origin.format(port=served.port)})
        assert status == 403, path


def test_cross_site_requests_are_refused(served: Served) -> None:
    assert served.ask("GET", "/config", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"})[0] == 403
    assert served.ask("GET", "/", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})[0] == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(
            ("GET", path)
            for path in ("/docs", "/openapi.json", "/gradio_api/info", "/gradio_api/openapi.json", "/runs")
        ),
        *(
            ("GET", path)
            for path in ("/monitoring", "/gradio_api/app_id", "/gradio_api/token", "/gradio_api/vibe-code")
        ),
        ("GET", "/gradio_api/proxy=https://evil.hf.space/x"),
        ("GET", "/gradio_api/deep_link?session_hash=x"),
        ("GET", "/gradio_api/file/etc/passwd"),
        ("GET", "/gradio_api/custom_component/x/client/component/../../x"),
        *(("POST", f"/gradio_api/{path}") for path in ("call/_frame", "call/v2/_frame", "run/_frame", "api/_frame")),
        *(
            ("POST", f"/gradio_api/{path}")
            for path in ("component_server", "process_recording", "vibe-edit", "stream/x")
        ),
        ("POST", "/login"),
        ("POST", "//gradio_api/call/_frame"),
        ("POST", "/gradio_api/queue/join/../../call/_frame"),
        *((method, "/") for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "POST")),
    ],
)
def test_unused_routes_are_not_found(served: Served, method: str, path: str) -> None:
    assert served.ask(method, path)[0] == 404


FORBIDDEN = [
    "{outside}/private.png",
    "{outside}/secret.txt",
    "{outside}/absent.png",
    "{outside}/fifo",
    "{outside}",
    "{uploads}",
    "{uploads}/../../../outside/private.png",
    "{uploads}/link.png",
    "{uploads}/folder/private.png",
    "{uploads}/loop",
    "{uploads}/fifo",
    "private.png",
    "~/private.png",
    "/dev/zero",
    "/dev/stdin",
    "/proc/self/environ",
    "file://{outside}/private.png",
    "http://127.0.0.1:{port}/x.png",
    "http://169.254.169.254/latest/meta-data",
    "{uploads}/\x00.png",
    "{uploads}/" + "a" * 5000,
    "",
    ".",
    "\\\\server\\share\\a.png",
]


@pytest.fixture
def planted(served: Served) -> None:
    """Links and pipes in the folder of uploads, as if somebody had got them there."""
    links = {"link.png": served.outside / "private.png", "folder": served.outside, "loop": served.uploads / "loop"}
    for name, target in links.items():
        if not (served.uploads / name).is_symlink():
            (served.uploads / name).symlink_to(target)
    if not (served.uploads / "fifo").exists():
        os.mkfifo(served.uploads / "fifo")


@pytest.mark.parametrize("name", FORBIDDEN)
def test_files_that_were_not_uploaded_are_refused(served: Served, planted: None, name: str) -> None:
    path = name.format(outside=served.outside, uploads=served.uploads, port=served.port)
    meta = {"meta": {"_type": "gradio.FileData"}}
    for value in ({"path": path, **meta}, {"path": path}, [[{"path": path, "url": "/x"}]], {"image": {"path": path}}):
        status, said = served.join([value, 100, 50, 50])
        assert status == 403
        assert said == b"Only files that were uploaded to this page can be read.\n"
    quoted = "".join(f"%{byte:02x}" for byte in path.encode())
    status, said = served.ask("GET", f"/gradio_api/file={quoted}")
    assert status == 403
    assert said == b"Only files that were uploaded to this page can be read.\n"


def test_uploaded_file_is_served(served: Served) -> None:
    path = served.upload("a.png", (served.outside / "private.png").read_bytes() + b"mine")
    assert served.ask("GET", f"/gradio_api/file={path}")[0] == 200
    value = {"path": str(path), "url": f"http://x/gradio_api/file={path}", "meta": {"_type": "gradio.FileData"}}
    assert served.join([value, 100, 50, 50])[0] == 200
    path.unlink()


@pytest.mark.parametrize(
    "name", ["../../../evil.png", "/etc/evil.png", "..\\evil.png", "a\x00b.png", "." * 300, "%2e%2e%2fevil.png"]
)
def test_upload_stays_in_its_folder(served: Served, name: str) -> None:
    path = served.upload(name, b"content")
    assert path.resolve().is_relative_to(served.uploads)
    assert not [file for file in served.outside.parent.rglob("evil*") if file != path]
    path.unlink()


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"{",
            b"\xff\xfe{\x00}\x00",
            b"[" * 100_000,
            b'"\\ud800"',
            b'{"data": ["\\ud800"]}',
            b"[]",
            b"null\x00",
            b"data=1",
        ),
        b'{"data": [{"path": "/dev/zero"}], "data": []',
    ],
)
def test_malformed_json_is_refused(served: Served, body: bytes) -> None:
    status, _ = served.ask("POST", JOIN, {"Content-Type": "application/json"}, body)
    assert status in (400, 422)


def test_duplicate_keys_are_all_checked(served: Served) -> None:
    allowed = served.upload("a.png", b"content")
    hidden = f'{{"data": [{{"path": "/dev/zero", "path": "{allowed}"}}, 1, 1, 1], "fn_index": 0, "session_hash": "x"}}'
    assert served.ask("POST", JOIN, {}, hidden.encode())[0] == 200
    hidden = hidden.replace("/dev/zero", "").replace(str(allowed), "/dev/zero")
    assert served.ask("POST", JOIN, {}, hidden.encode())[0] == 403


def test_too_long_requests_are_refused_before_reading(served: Served) -> None:
    for path, length in ((JOIN, 2**20 + 1), (UPLOAD, 2**40), (UPLOAD, 10**400)):
        assert served.ask("POST", path, {"Content-Length": str(length)})[0] in (400, 413), path
    for length in ("", "-1", "1e3"):
        assert served.ask("POST", JOIN, {"Content-Length": length})[0] in (400, 411)


UNANSWERABLE: dict[str, tuple[str, str, dict[str, str], bytes]] = {
    "a long name": ("GET", "/assets/" + "a" * 5000, {}, b""),
    "a file without a name": (
        "POST",
        UPLOAD,
        {"Content-Type": "multipart/form-data; boundary=b"},
        b"--b\r\nContent-Disposition: form-data; name=\"files\"; filename*=UTF-8''..%2fevil\r\n\r\nx\r\n--b--\r\n",
    ),
    "a long boundary": ("POST", UPLOAD, {"Content-Type": f"multipart/form-data; boundary={'b' * 5000}"}, b"x" * 100),
    "no such event": ("POST", JOIN, {}, b'{"data": [], "fn_index": 99999, "session_hash": "x"}'),
    "a vast event": ("POST", JOIN, {}, b'{"data": [], "fn_index": 1' + b"0" * 40 + b', "session_hash": "x"}'),
    "a body in chunks": ("POST", JOIN, {"Transfer-Encoding": "chunked"}, b'12\r\n{"path": "/etc/hosts"\r\n0\r\n\r\n'),
}


@pytest.mark.parametrize("name", UNANSWERABLE)
def test_requests_that_gradio_fails_on_leave_no_traceback(served: Served, name: str) -> None:
    """The fixture looks for it when the page has ended."""
    method, path, headers, body = UNANSWERABLE[name]
    assert served.ask(method, path, headers, body)[0] >= 400
    assert not list(served.outside.parent.rglob("evil*"))


def test_stalled_request_does_not_block_others(served: Served) -> None:
    head = f"POST {JOIN} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nCookie: {served.cookie['Cookie']}\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=HANG) as slow:
        slow.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        assert served.ask("GET", "/")[0] == 200


def test_websocket_upgrade_is_refused(served: Served) -> None:
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "eA==",
    }
    assert served.ask("GET", "/queue/join", headers)[0] in (400, 403, 404, 426)


def test_signal_ends_page_and_removes_its_folder(model: Path, tmp_path: Path) -> None:
    """SIGINT; SIGHUP ends the page of the tests above, and SIGTERM the one in the browser."""
    with start_page(model, tmp_path, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        assert list(tmp_path.glob(f"{PREFIX}*"))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=HANG)
    assert "Traceback" not in said, said
    assert not list(tmp_path.glob(f"{PREFIX}*"))


def test_next_page_removes_folder_of_killed_one(tmp_path: Path) -> None:
    code = (
        "import sys; from ddim_edit.ui.workspace import private_folder\n"
        "with private_folder() as folder: print(folder, flush=True); sys.stdin.read()"
    )
    command, pipes = [sys.executable, "-c", code], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        process.kill()
    assert left.exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path))
        with private_folder() as mine:
            assert not left.exists()
            remove_abandoned_folders(tmp_path)
            assert mine.exists()
