"""`limber status`: what of a study is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from limberlm.cli.console import JsonOption, print_json, print_table


def status(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")], as_json: JsonOption = False
) -> None:
    """Which nodes of a study are finished, and how long each took.

    Example: limber status runs/first
    """
    from limberlm.study import Results

    results = Results(folder)
    nodes = []
    for entry in results.plan["nodes"]:
        done = results.store.is_complete(entry["id"])
        record = json.loads((results.store.node(entry["id"]) / "COMPLETE").read_text()) if done else {}
        nodes.append({"node": entry["id"], "after": entry["parent"], "done": done, "seconds": record.get("seconds")})
    if as_json:
        print_json({"nodes": nodes})
        return
    rows = [
        [
            n["node"],
            n["after"] or "-",
            "done" if n["done"] else "to do",
            "-" if n["seconds"] is None else f"{n['seconds']:.1f}",
        ]
        for n in nodes
    ]
    finished = sum(bool(n["done"]) for n in nodes)
    print_table(f"{finished} of {len(nodes)} nodes finished", ["node", "after", "state", "seconds"], rows)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(status)
