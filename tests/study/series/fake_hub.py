"""A hub of our own: the client's own code talks to it over HTTP, as it would to the real one.

What it lists is `listings.json`: branch names as the repositories of 2509.23024 have them in public use, written down
by hand (all 154 of Pythia, the irregular ones of OLMo-2), in the order in which a hub lists them. Commits are made up.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants as constants
import pytest

LISTINGS: dict[str, list[str]] = json.loads((Path(__file__).parent / "listings.json").read_text())


def commit_of(repository: str, name: str) -> str:
    """40 hexadecimal digits, as a commit has."""
    return sha1(f"{repository}/{name}".encode()).hexdigest()


@dataclass
class Hub:
    """Repositories by name: their branches, and the folder that each holds. `asked`: the paths of all requests."""

    branches: Mapping[str, list[str]] = field(default_factory=lambda: LISTINGS)
    folders: dict[tuple[str, str], Path] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    down: bool = False

    def put(self, repository: str, name: str, folder: Path) -> None:
        """Let a branch hold the files of a folder."""
        self.folders[repository, commit_of(repository, name)] = folder

    @property
    def downloads(self) -> list[str]:
        """The weight files that were sent."""
        return [path for path in self.asked if path.startswith("GET") and path.endswith(".safetensors")]

    def refs(self, repository: str) -> dict[str, Any]:
        """What the hub says of a repository's branches."""
        names = self.branches[repository]
        listed = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": commit_of(repository, n)} for n in names]
        return {"branches": listed, "tags": [], "converts": []}

    def files(self, repository: str, commit: str) -> list[Path]:
        """The files of a commit."""
        folder = self.folders[repository, commit]
        return sorted(path for path in folder.iterdir() if path.is_file())


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """Serve a hub; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            try:
                content, headers = self.content(path.strip("/").split("/"))
            except (KeyError, IndexError, FileNotFoundError):
                self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
                return
            self.send(503, b"{}", {}, body) if hub.down else self.send(200, content, headers, body)

        def content(self, parts: list[str]) -> tuple[bytes, dict[str, str]]:
            if parts[0] == "api":
                return json.dumps(self.api(parts[2:])).encode(), {"Content-Type": "application/json"}
            repository, commit = "/".join(parts[:2]), parts[3]
            data = (hub.folders[repository, commit] / parts[4]).read_bytes()
            return data, {"X-Repo-Commit": commit, "ETag": f'"{sha1(data).hexdigest()}"'}

        def api(self, parts: list[str]) -> Any:
            repository, what = "/".join(parts[:2]), parts[2]
            if what == "refs":
                return hub.refs(repository)
            files = hub.files(repository, parts[3])
            if what == "tree":
                return [
                    {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": sha1(p.read_bytes()).hexdigest()}
                    for p in files
                ]
            siblings = [{"rfilename": p.name, "size": p.stat().st_size} for p in files]
            return {"id": repository, "modelId": repository, "sha": parts[3], "siblings": siblings, "tags": []}

        def send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub that the client takes for the real one, and an empty cache."""
    made = Hub()
    with serving(made) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield made
