"""An index comes back from disk as it was, mapped; a damaged, foreign or half-written one never comes back at all."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limberlm.errors import UserError
from limberlm.outcomes.memorization import index_files
from limberlm.outcomes.memorization.index_files import MANIFEST, SUFFIXES, TOKENS
from limberlm.outcomes.memorization.infinigram import Infinigram

VOCABULARY = 50


def made(seed: int = 0, size: int = 4000, vocab_size: int = VOCABULARY) -> Infinigram:
    tokens = np.random.default_rng(seed).integers(0, VOCABULARY + 1, size)
    return Infinigram.build(tokens, vocab_size, tokenizer="cafe")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    made().save(tmp_path / "index")
    return tmp_path / "index"


def digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


def reseal(folder: Path, **changes: Any) -> None:
    """Make the manifest agree with the files and with itself again, as only someone on purpose would."""
    manifest = json.loads((folder / MANIFEST).read_text()) | changes
    for name in (TOKENS, SUFFIXES):
        data = (folder / name).read_bytes()
        manifest["files"][name] = {"bytes": len(data), "digest": digest(data)}
    manifest.pop("digest")
    manifest["digest"] = digest(json.dumps(manifest, sort_keys=True).encode())
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("vocab_size", [VOCABULARY, 70_000])
@pytest.mark.parametrize("verify", [True, False])
def test_an_index_comes_back_as_it_was_mapped_from_disk(tmp_path: Path, vocab_size: int, verify: bool) -> None:
    index = made(vocab_size=vocab_size)
    index.save(tmp_path / "index")
    back = Infinigram.load(tmp_path / "index", tokenizer="cafe", verify=verify)
    assert (back.vocab_size, back.tokenizer, back.length) == (vocab_size, "cafe", index.length)
    for mine, theirs in ((index.tokens, back.tokens), (index.suffixes, back.suffixes)):
        np.testing.assert_array_equal(mine, theirs)
        assert mine.dtype == theirs.dtype
        assert isinstance(theirs.base, np.memmap)
        assert not theirs.flags.writeable
    prompts = np.random.default_rng(1).integers(0, VOCABULARY, (50, 6)).tolist()
    targets = np.random.default_rng(2).integers(0, VOCABULARY, (50, 3)).tolist()
    np.testing.assert_array_equal(back.log_probabilities(prompts, targets), index.log_probabilities(prompts, targets))


def test_the_same_index_gives_the_same_bytes_and_replaces_an_older_one(saved: Path, tmp_path: Path) -> None:
    made().save(tmp_path / "again")
    for name in (MANIFEST, TOKENS, SUFFIXES):
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    made(seed=5).save(saved)
    np.testing.assert_array_equal(Infinigram.load(saved).tokens, made(seed=5).tokens)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "index"]


def test_a_loaded_index_can_be_saved_over_itself(saved: Path) -> None:
    before = (saved / TOKENS).read_bytes()
    Infinigram.load(saved).save(saved)
    assert (saved / TOKENS).read_bytes() == before


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "tokens cut": (lambda f: (f / TOKENS).write_bytes((f / TOKENS).read_bytes()[:-2]), "tokens.npy: 8126 bytes"),
    "suffixes cut": (lambda f: (f / SUFFIXES).write_bytes((f / SUFFIXES).read_bytes()[:-4]), "suffixes.npy: 16124 by"),
    "tokens empty": (lambda f: (f / TOKENS).write_bytes(b""), "tokens.npy: 0 bytes"),
    "a bit of the tokens": (lambda f: flip(f / TOKENS), "tokens.npy: differs from the digest"),
    "a bit of the suffixes": (lambda f: flip(f / SUFFIXES), "suffixes.npy: differs from the digest"),
    "tokens gone": (lambda f: (f / TOKENS).unlink(), "tokens.npy: no such file"),
    "manifest gone": (lambda f: (f / MANIFEST).unlink(), "manifest.json: no such file"),
    "manifest cut": (lambda f: (f / MANIFEST).write_text("{"), "manifest.json: cannot be read"),
    "manifest not text": (lambda f: (f / MANIFEST).write_bytes(b"\xff\xfe\x00"), "manifest.json: cannot be read"),
    "manifest of another kind": (lambda f: (f / MANIFEST).write_text('{"format": 1}'), "not the manifest of an inf"),
    "manifest a list": (lambda f: (f / MANIFEST).write_text("[]"), "not the manifest of an infinity-gram index"),
    "everything gone": (shutil.rmtree, "no such file; give the folder of an infinity-gram index"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_index_is_one_line_naming_the_file(saved: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    damage(saved)
    with pytest.raises(UserError, match=message) as caught:
        Infinigram.load(saved)
    assert str(saved) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_edited_manifest_is_refused(saved: Path) -> None:
    text = (saved / MANIFEST).read_text()
    (saved / MANIFEST).write_text(text.replace('"cafe"', '"beef"'))
    with pytest.raises(UserError, match=r"manifest\.json: differs from its own digest"):
        Infinigram.load(saved, verify=False)


def test_the_manifest_of_another_index_is_refused(saved: Path, tmp_path: Path) -> None:
    made(seed=1).save(tmp_path / "same_size")
    made(seed=2, size=500).save(tmp_path / "smaller")
    shutil.copy(tmp_path / "same_size" / MANIFEST, saved / MANIFEST)
    with pytest.raises(UserError, match=r"tokens\.npy: differs from the digest"):
        Infinigram.load(saved)
    shutil.copy(tmp_path / "smaller" / MANIFEST, saved / MANIFEST)
    with pytest.raises(UserError, match=r"bytes, manifest\.json says"):
        Infinigram.load(saved, verify=False)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(4000, dtype="<i8"), r"tokens\.npy: <i8 of shape \(4000,\), not <u2 or <u4"),
        (np.zeros(4000, dtype=">u2"), "tokens.npy: >u2"),
        (np.zeros((2, 2000), dtype="<u2"), r"of shape \(2, 2000\)"),
        (np.zeros(3999, dtype="<u2"), r"of shape \(3999,\), not .* of \(4000,\)"),
        (np.array([{"a": 1}], dtype=object), "cannot be read"),
    ],
)
def test_arrays_of_the_wrong_kind_are_refused_even_with_right_digests(
    saved: Path, array: np.ndarray, message: str
) -> None:
    np.save(saved / TOKENS, array, allow_pickle=True)
    reseal(saved)
    with pytest.raises(UserError, match=message):
        Infinigram.load(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2 of a later limberlm"),
        ({"vocab_size": "x"}, "lacks one of"),
        ({"files": {}}, "lists"),
    ],
)
def test_a_manifest_of_another_format_is_refused(saved: Path, changes: dict[str, Any], message: str) -> None:
    manifest = json.loads((saved / MANIFEST).read_text()) | changes
    manifest.pop("digest")
    manifest["digest"] = digest(json.dumps(manifest, sort_keys=True).encode())
    (saved / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=message):
        Infinigram.load(saved)


def test_a_corpus_tokenized_otherwise_is_refused(saved: Path) -> None:
    with pytest.raises(UserError, match='indexed with tokenizer "cafe", not "beef"'):
        Infinigram.load(saved, tokenizer="beef")


def test_what_the_quick_check_sees_and_what_only_the_digests_see(saved: Path) -> None:
    flip(saved / TOKENS)
    assert Infinigram.load(saved, verify=False).vocab_size == VOCABULARY
    with pytest.raises(UserError, match="digest"):
        Infinigram.load(saved)


def test_other_files_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for target in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(UserError, match="exists and is not an index; choose another folder"):
            made().save(target)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_full_disk_leaves_the_older_index_and_nothing_else(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, array: np.ndarray, **settings: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(index_files.np, "save", full)
    with pytest.raises(UserError, match=r"cannot be written \(the disk is full"):
        made(seed=9).save(saved)
    assert [path.name for path in saved.parent.iterdir()] == ["index"]
    np.testing.assert_array_equal(Infinigram.load(saved).tokens, made().tokens)
