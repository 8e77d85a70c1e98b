"""The `limber` command: one short file per command, each validating, calling and printing."""

from __future__ import annotations

from limberlm.cli.app import main

__all__ = ["main"]
