"""Ask for known vulnerabilities of what an environment holds; nothing passes that was not looked up.

python .ci/audit.py PYTHON: the environment's interpreter. Ends with 0 only if all packages are known, none vulnerable.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

SERVICE = "the advisory service (pypi.org)"


def main(python: str) -> None:
    """Print a line for each vulnerability."""
    packages = _asked(_pinned(python))
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if unknown:
        sys.exit(
            f"audit: not done: {SERVICE} says nothing of {len(unknown)} of {len(packages)} packages, such as "
            f"{unknown[0]}; an index that mirrors packages alone has no advisories"
        )
    found = [(package, problem) for package in packages for problem in package["vulns"]]
    for package, problem in found:
        mended = ", ".join(problem["fix_versions"]) or "no release"
        print(f"audit: {package['name']} {package['version']}: {problem['id']}, mended in {mended}")
    if found:
        sys.exit(1)
    print(f"audit: {len(packages)} packages, no known vulnerability")


def _pinned(python: str) -> str:
    """The environment's packages as requirements; advisories know no local versions, such as torch's `+cpu`."""
    freeze = [sys.executable, "-m", "pip", "--python", python, "freeze", "--exclude", "limberlm"]
    frozen = subprocess.run(freeze, check=True, capture_output=True, text=True).stdout
    return re.sub(r"\+[\w.]+$", "", frozen, flags=re.MULTILINE)


def _asked(requirements: str) -> list[dict[str, Any]]:
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "requirements.txt"
        path.write_text(requirements, encoding="utf-8")
        ask = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--progress-spinner", "off"]
        done = subprocess.run([*ask, "--format", "json", "--requirement", path], capture_output=True, text=True)
    if not done.stdout:
        why = next(iter(reversed(done.stderr.strip().splitlines())), f"pip-audit ended with {done.returncode}")
        sys.exit(f"audit: not done: {SERVICE} does not answer: {why}")
    packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    return packages


if __name__ == "__main__":
    main(sys.argv[1])
