"""A file or folder is there whole or not at all, and nothing is left beside it."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limberlm.errors import UserError
from limberlm.files import content_digest, file_digest, remove_drafts, whole_file, whole_folder, write_text


class Stopped(Exception):
    pass


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_write_that_is_stopped_leaves_the_old_file_or_folder_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    with whole_folder(tmp_path / "folder") as draft:
        (draft / "part").write_text("old")
    with suppress(Stopped), whole_file(tmp_path / "file") as draft:
        draft.write_text("half")
        raise Stopped
    with suppress(Stopped), whole_folder(tmp_path / "folder") as draft:
        (draft / "part").write_text("half")
        raise Stopped
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "part").read_text() == "old"
    assert names(tmp_path) == ["file", "folder", "folder/part"]


def test_a_new_folder_holds_nothing_of_the_old_one(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with whole_folder(tmp_path / "deep" / "folder") as draft:
            (draft / "inner").mkdir()
            (draft / "inner" / name).write_text(name)
    assert names(tmp_path) == ["deep", "deep/folder", "deep/folder/inner", "deep/folder/inner/second"]


@pytest.mark.parametrize("place", ["taken/file", "."])
def test_what_cannot_be_written_is_told_in_one_line_that_names_it(tmp_path: Path, place: str) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match=r": cannot be written \(.+; choose a folder you may write to\)"):
        write_text(tmp_path / place, "text")
    assert names(tmp_path) == ["taken"]


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"file: cannot be written \(the disk is full"):  # noqa: SIM117
        with whole_file(tmp_path / "file"):
            Path("/dev/full").write_text("text")
    assert names(tmp_path) == []


def test_a_killed_writer_leaves_a_draft_that_is_known_for_one(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from limberlm.files import whole_file, whole_folder\n"
        "place = Path(sys.argv[1])\n"
        "with whole_file(place / 'file') as file, whole_folder(place / 'folder') as folder:\n"
        "    file.write_text('half'); (folder / 'part').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "file").exists()
    assert not (tmp_path / "folder").exists()
    assert names(tmp_path)
    remove_drafts(tmp_path)
    assert names(tmp_path) == []


@given(content=st.dictionaries(st.text(), st.integers() | st.text(), max_size=5), seed=st.randoms())
def test_the_digest_of_content_does_not_depend_on_the_order_of_its_keys(content: dict[str, object], seed) -> None:
    shuffled = list(content.items())
    seed.shuffle(shuffled)
    assert content_digest(content) == content_digest(dict(shuffled))
    assert content_digest(content) != content_digest({**content, "one more": 1})
    assert len(content_digest(content, bits=48)) == 12


def test_the_digest_of_a_file_is_blake2b_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)) * 5000)
    expected = hashlib.blake2b(bytes(range(256)) * 5000, digest_size=16).hexdigest()
    assert file_digest(tmp_path / "file") == expected


def test_stopped_between_its_two_renames_a_folder_is_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with whole_folder(tmp_path / "folder") as draft:
        (draft / "old").touch()
    rename = Path.rename

    def stopping(path: Path, target: Path) -> Path:
        if path == made:
            raise Stopped
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stopping)
    with suppress(Stopped), whole_folder(tmp_path / "folder") as made:
        (made / "new").touch()
    assert names(tmp_path) == ["folder", "folder/old"]


def test_of_several_who_write_one_folder_at_once_the_last_one_stays(tmp_path: Path) -> None:
    """None fails, none is mixed with another, and nothing is left beside it."""
    code = (
        "import sys; from pathlib import Path; from limberlm.files import whole_folder\n"
        "for _ in range(150):\n"
        "    with whole_folder(Path(sys.argv[1])) as draft:\n"
        "        for name in 'ab': (draft / name).write_text(sys.argv[2])\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "folder")]
    writers = [subprocess.Popen([*words, str(number)]) for number in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert names(tmp_path) == ["folder", "folder/a", "folder/b"]
    assert (tmp_path / "folder" / "a").read_text() == (tmp_path / "folder" / "b").read_text()
