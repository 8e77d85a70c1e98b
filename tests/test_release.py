"""What is released: the citation says the package's version, and the wheel holds the package and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import limberlm

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_the_citation_is_of_this_version_and_license() -> None:
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["version"] == limberlm.__version__
    assert (CITATION["title"], CITATION["license"]) == (PROJECT["name"], PROJECT["license"])
    assert {"message", "title", "authors"} <= CITATION.keys(), "what the schema requires"
    assert all({"type", "title", "authors"} <= reference.keys() for reference in CITATION["references"])


def test_it_names_the_papers_that_the_pages_name() -> None:
    pages = "".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    for reference in CITATION["references"]:
        paper = reference["identifiers"][0]["value"].removeprefix("arXiv:")
        assert paper in pages
        assert reference["url"] == f"https://arxiv.org/abs/{paper}"


def test_the_changelog_begins_with_what_is_not_released() -> None:
    headings = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"


@pytest.mark.slow  # builds, with the build tool from the package index
def test_the_wheel_holds_the_package_as_it_is_and_nothing_else(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True)
    [wheel] = tmp_path.glob("*.whl")
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(["git", "ls-files", "src"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert files == {name.removeprefix("src/") for name in tracked.split()}
    assert any(name.endswith("model.safetensors") for name in files)
    assert any(name.endswith(".html.j2") for name in files)


@pytest.mark.slow  # builds, and installs the wheel with all that it brings
def test_the_sbom_names_what_the_wheel_brings_and_nothing_else(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    subprocess.run(["make", "sbom", f"PYTHON={sys.executable}"], cwd=clone, check=True)
    sbom = json.loads((clone / "dist" / "sbom.cdx.json").read_text())
    assert sbom["bomFormat"] == "CycloneDX"
    subject = sbom["metadata"]["component"]
    assert (subject["name"], subject["version"]) == (PROJECT["name"], limberlm.__version__)
    versions = {canonicalize_name(part["name"]): part["version"] for part in sbom["components"]}
    for line in PROJECT["dependencies"]:
        needed = Requirement(line)
        assert versions[canonicalize_name(needed.name)] in needed.specifier
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    assert {name: version.partition("+")[0] for name, version in versions.items()}.items() <= pinned.items()
    assert versions.keys().isdisjoint({"pytest", "ruff", "pip", "cyclonedx-bom", "pip-audit"})
