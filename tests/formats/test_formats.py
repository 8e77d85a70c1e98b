"""What a release has written can be read by every later one, to the same numbers; what a later one wrote is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from limberlm.errors import UserError
from limberlm.formats import FIELD, FORMATS, UNNUMBERED
from limberlm.observe.updates.measurement import _METADATA
from tests.formats.make import HERE, MAKE, READ, place

ROOT = Path(__file__).parents[2]
VERSIONS = [(kind, version) for kind, newest in FORMATS.items() for version in range(1, newest + 1)]
SAYS = {
    "geometry": "manifest.json",
    "folora": "manifest.json",
    "index": "manifest.json",
    "run": "plan.json",
    "trace": "checkpoints.json",
    "corpus": "corpus.json",
}
"""The file of a folder that says its version."""


@pytest.mark.parametrize(("kind", "version"), VERSIONS)
def test_every_version_ever_written_is_read_to_the_same_numbers(kind: str, version: int) -> None:
    known = json.loads((HERE / f"v{version}" / "numbers.json").read_text())[kind]
    assert READ[kind](place(kind, version)) == pytest.approx(known, rel=1e-6)


def numbered(kind: str, folder: Path, change: Callable[[dict[str, object]], object]) -> Path:
    """The newest artefact with its version changed."""
    origin = place(kind, FORMATS[kind])
    path = folder / origin.name
    if kind == "updates":
        table = pq.read_table(origin)
        about = json.loads(table.schema.metadata[_METADATA])
        change(about)
        pq.write_table(table.replace_schema_metadata({_METADATA: json.dumps(about).encode()}), path)
        return path
    (shutil.copytree if origin.is_dir() else shutil.copy)(origin, path)
    file = path / SAYS[kind] if path.is_dir() else path
    about = json.loads(file.read_text())
    change(about)
    file.write_text(json.dumps(about))
    return path


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_of_a_later_release_is_refused_in_one_line_that_says_to_upgrade(kind: str, tmp_path: Path) -> None:
    later = FORMATS[kind] + 1
    path = numbered(kind, tmp_path, lambda about: about.update({FIELD: later}))
    with pytest.raises(UserError, match=rf"format {later} of a later limberlm.*upgrade limberlm$") as refused:
        READ[kind](path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_without_a_version_is_the_first_or_is_refused(kind: str, tmp_path: Path) -> None:
    path = numbered(kind, tmp_path, lambda about: about.pop(FIELD))
    if kind in UNNUMBERED:
        assert READ[kind](path)
    else:
        with pytest.raises(UserError, match="format None is none that limberlm has written"):
            READ[kind](path)


def test_every_format_has_an_artefact_and_a_line_in_the_documentation() -> None:
    assert set(MAKE) == set(READ) == set(FORMATS)
    page = (ROOT / "docs" / "reference" / "on_disk.md").read_text()
    for kind, version in FORMATS.items():
        assert re.search(rf"^\| `{kind}` \| {version} \|", page, re.MULTILINE), kind
    assert sum(path.stat().st_size for path in HERE.rglob("*") if path.is_file()) < 300_000
