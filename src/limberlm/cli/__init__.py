"""The `limber` command: one short file per command, each validating, calling and printing."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: see `limberlm.cli.app.main`."""
    try:
        from limberlm.cli import app
    except KeyboardInterrupt:  # a busy machine takes seconds to get this far
        sys.exit(130)
    app.main(arguments)
