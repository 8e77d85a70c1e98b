"""The same on S3 as it is spoken: moto's server, through s3fs."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from limberlm.errors import UserError
from limberlm.study.store import storage
from limberlm.study.store.exchange import exchange
from limberlm.study.store.remote import Remote
from limberlm.study.store.store import COMPLETE, Store

s3fs = pytest.importorskip("s3fs", reason="needs s3fs and moto[server]")
pytest.importorskip("moto.server", reason="needs s3fs and moto[server]")

WANTED = {"n-1": None, "n-1/geometry": "abc", "n-2": None}
ACCOUNT = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[s3fs.S3FileSystem]:
    """A server with one bucket, for whom storage is asked."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in ACCOUNT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(storage, "WAITS", (0.0, 0.0))
    line = [sys.executable, "-c", f"from moto.server import main; main(['-p', '{port}'])"]
    server = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while socket.socket().connect_ex(("127.0.0.1", port)):
        assert server.poll() is None
        time.sleep(0.1)
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
    files.mkdir("bucket")
    yield files
    server.kill()
    server.wait()


def test_nodes_and_parts_go_there_and_come_back_and_what_is_damaged_is_refused(
    bucket: s3fs.S3FileSystem, tmp_path: Path
) -> None:
    remote = Remote("s3://bucket/run/")
    remote.refuse_foreign("one")
    remote.begin("name: one\nstages: {s: {trainer: sft, data: 'testbed:instructions'}}\n", "{}")
    bucket.pipe_file("bucket/run/nodes/n-10/beside", b"not ours to remove")
    here, there = Store(tmp_path / "here", remote), Store(tmp_path / "there")
    with here.writing("n-1") as folder:
        (folder / "adapter").mkdir()
        (folder / "adapter" / "weights").write_bytes(b"w" * 100_000)
    with here.writing_part("n-1", "geometry", "abc") as folder:
        (folder / "metrics").write_text("0.5")
    assert exchange(there, remote, WANTED) == {"n-2"}
    assert there.checked(there.node("n-1"), "adapter/weights")
    assert there.digests("n-1") == here.digests("n-1")
    assert there.part_digests("n-1", "geometry") == here.part_digests("n-1", "geometry")

    bucket.pipe_file("bucket/run/nodes/n-1/adapter/weights", b"v" * 100_000)
    with pytest.raises(UserError, match=r"^s3://bucket/run/nodes/n-1/adapter/weights: not as the run wrote it; remove"):
        exchange(Store(tmp_path / "third"), remote, WANTED)

    bucket.rm_file(f"bucket/run/nodes/n-1/{COMPLETE}")
    remote.push(here, "n-1")
    assert sorted(bucket.find("bucket/run")) == [
        f"bucket/run/nodes/n-1/{COMPLETE}",
        "bucket/run/nodes/n-1/adapter/weights",
        "bucket/run/nodes/n-10/beside",
        "bucket/run/plan.json",
        "bucket/run/study.yaml",
    ]
    with pytest.raises(UserError, match='belongs to the study "one", not "two"'):
        remote.refuse_foreign("two")
    with pytest.raises(UserError, match=r"^s3://nowhere/run: writing study\.yaml failed 3 times"):
        Remote("s3://nowhere/run").begin("", "")
