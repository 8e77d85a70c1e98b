"""`limber status`: what of a study is done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limberlm.cli.console import JsonOption, print_json, print_table, say

if TYPE_CHECKING:
    from limberlm.study.store.store import Store


def status(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")], as_json: JsonOption = False
) -> None:
    """What of a study is finished, at work or failed.

    With what is measured of each node, how long it took, and the disk it uses.

    Example: limber status runs/first
    """
    from limberlm.study.store.store import Store, planned_nodes

    nodes = [_node(Store(folder), identity, after) for identity, after in planned_nodes(folder).items()]
    if as_json:
        print_json({"nodes": nodes})
        return
    rows = [
        [
            node["node"],
            node["after"] or "-",
            node["state"],
            ", ".join(node["parts"]) or "-",
            "-" if node["seconds"] is None else f"{node['seconds']:.1f}",
            f"{node['bytes'] / 1e6:.1f}",
        ]
        for node in nodes
    ]
    finished = sum(bool(node["done"]) for node in nodes)
    heads = ["node", "after", "state", "measured", "seconds", "MB"]
    print_table(f"{finished} of {len(nodes)} nodes finished", heads, rows)
    for node in nodes:
        for why in node["failed"]:
            say(f"{node['node']}: {why.partition(chr(10))[0]}")


def _node(store: Store, identity: str, after: str | None) -> dict[str, Any]:
    from limberlm.files import folder_size
    from limberlm.study.store.lease import Leases

    folder = store.node(identity)
    done = store.is_complete(identity)
    jobs = [f"{identity}.{kind}" for kind in ("make", "measure")]
    failed = [why for why in map(store.failure, jobs) if why is not None]
    at_work = any(map(Leases(store.root / "leases").held_by_another, jobs))
    parts = sorted(part.parent.name for part in folder.glob("*/COMPLETE"))
    return {
        "node": identity,
        "after": after,
        "done": done,
        "state": "at work" if at_work else "failed" if failed else "done" if done else "to do",
        "parts": parts,
        "seconds": store.seconds(identity),
        "bytes": folder_size(folder),
        "failed": failed,
    }
