"""A hub on this machine: as much of it as huggingface_hub asks for to make repositories, fill and read them."""

import hashlib
import http.server
import json
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_whatNobodyMayRead"


class FakeHub:
    """The repositories, what was asked, and how.

    Attributes:
        endpoint: the address.
        repos: files by repository, and by their paths there.
        private: repositories that were made private.
        requests: method and path of each request so far.
    """

    def __init__(self) -> None:
        self.endpoint = ""
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.requests: list[str] = []
        self.objects: dict[str, bytes] = {}

    def sha(self, repo: str) -> str:
        """The commit that a repository is at."""
        digest = hashlib.sha1(repo.encode())
        for path, content in sorted(self.repos[repo].items()):
            digest.update(path.encode() + content)
        return digest.hexdigest()

    def commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.repos[repo][value["path"]] = b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.repos[repo][value["path"]] = self.objects[value["oid"]]


class Handler(http.server.BaseHTTPRequestHandler):
    hub: FakeHub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        body = self.read_body()
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.requests.append(f"{self.command} {path}")
        if self.command in ("HEAD", "GET"):
            self.read(path.split("/"))
        elif self.command == "PUT":
            self.hub.objects[path.rpartition("/")[2]] = body
            self.send(200)
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.send(401, {"error": "Invalid username or password."})
        else:
            self.write(path.split("/"), body)

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def read(self, parts: list[str]) -> None:
        hub = self.hub
        match parts:
            case ["api", "models", owner, name, *rest] if f"{owner}/{name}" in hub.repos:
                repo = f"{owner}/{name}"
                files = hub.repos[repo]
                if rest[:1] == ["tree"]:
                    tree = [{"type": "file", "path": path, "size": len(files[path]), "oid": "0"} for path in files]
                    self.send(200, tree)
                elif rest in ([], ["revision", "main"], ["revision", hub.sha(repo)]):
                    siblings = [{"rfilename": path} for path in files]
                    self.send(200, {"id": repo, "sha": hub.sha(repo), "siblings": siblings})
                else:
                    self.send(404, **{"X-Error-Code": "RevisionNotFound"})
            case [owner, name, "resolve", _, *file] if "/".join(file) in hub.repos.get(f"{owner}/{name}", {}):
                content = hub.repos[f"{owner}/{name}"]["/".join(file)]
                etag = hashlib.sha256(content).hexdigest()
                self.send(200, content, **{"X-Repo-Commit": hub.sha(f"{owner}/{name}"), "ETag": f'"{etag}"'})
            case _:
                self.send(404, **{"X-Error-Code": "RepoNotFound"})

    def write(self, parts: list[str], body: bytes) -> None:
        hub = self.hub
        match parts:
            case ["api", "repos", "create"]:
                asked = json.loads(body)
                repo = f"{asked['organization']}/{asked['name']}"
                if repo in hub.repos:
                    self.send(409, {"error": "You already created this model repo", "url": f"{hub.endpoint}/{repo}"})
                    return
                hub.repos[repo] = {}
                if asked.get("private") or asked.get("visibility") == "private":
                    hub.private.add(repo)
                self.send(200, {"url": f"{hub.endpoint}/{repo}", "id": repo})
            case ["api", "validate-yaml"]:
                self.send(200, {"errors": [], "warnings": []})
            case ["api", "models", _, _, "preupload", _]:
                files = []
                for file in json.loads(body)["files"]:
                    mode = "lfs" if file["path"].endswith(".safetensors") else "regular"
                    files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False})
                self.send(200, {"files": files})
            case [_, _, "info", "lfs", "objects", "batch"]:
                objects = []
                for each in json.loads(body)["objects"]:
                    upload = {"href": f"{hub.endpoint}/lfs/{each['oid']}"}
                    objects.append({**each, "actions": {"upload": upload}})
                self.send(200, {"transfer": "basic", "objects": objects})
            case ["api", "models", owner, name, "commit", "main"]:
                repo = f"{owner}/{name}"
                hub.commit(repo, [json.loads(line) for line in body.splitlines()])
                sha = hub.sha(repo)
                self.send(200, {"commitUrl": f"{hub.endpoint}/{repo}/commit/{sha}", "commitOid": sha})
            case _:
                self.send(404)

    def send(self, status: int, content: object = b"", **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def serving() -> Iterator[FakeHub]:
    hub = FakeHub()
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
