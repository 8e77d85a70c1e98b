"""The plan of a study, printed: the tree of its nodes, what they cost, what is shared, and what is there."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from limberlm.cli.console import print_json, print_table, say

if TYPE_CHECKING:
    from limberlm.study import Study
    from limberlm.study.plan.plan import Plan
    from limberlm.study.run.hands import Engine


def print_plan(study: Study, engine: Engine, as_json: bool) -> None:
    """Print what a run would do; nothing is trained."""
    from limberlm.study.run.jobs import Board, Job
    from limberlm.study.run.runner import prepare
    from limberlm.study.store.store import Store

    place, plan = prepare(study.settings, study.folder)
    engine.check_plan(place, plan)
    board = Board(place, Store(study.out), plan)
    states = board.states()
    through = Counter(identity for chain in plan.chains for identity in set(chain.nodes))
    nodes = []
    for node in plan.nodes:
        making, measuring = states[Job("make", node)], states[Job("measure", node)]
        cost = place.cost(node)
        nodes.append(
            {
                "node": node.id,
                "parent": node.parent,
                "seed": node.stage_seed,
                "steps": cost.steps,
                "tokens": cost.tokens,
                "chains": through[node.id],
                "made": making == "done",
                "measured": measuring == "done",
                "done": making == measuring == "done",
            }
        )
    if as_json:
        print_json(
            {
                "out": str(study.out),
                "chains": [chain.name for chain in plan.chains],
                "nodes": nodes,
                **_sums(plan, nodes),
            }
        )
        return
    _print_table(study, plan, nodes)


def _sums(plan: Plan, nodes: list[dict[str, Any]]) -> dict[str, Any]:
    """Steps and tokens in all, still to do, and as they would be if no beginning were shared."""
    by_id = {node["node"]: node for node in nodes}
    unshared = [by_id[identity] for chain in plan.chains for identity in chain.nodes]
    to_do = [node for node in nodes if not node["made"]]
    return {
        name: {unit: sum(node[unit] for node in some) for unit in ("steps", "tokens")}
        for name, some in (("all", nodes), ("to_do", to_do), ("without_sharing", unshared))
    }


def _print_table(study: Study, plan: Plan, nodes: list[dict[str, Any]]) -> None:
    depths = {node.id: len(node.path) - 1 for node in plan.nodes}
    rows = [
        [
            "  " * depths[node["node"]] + node["node"],
            f"{node['steps']:,}",
            f"{node['tokens']:,}",
            str(node["chains"]),
            _state(node),
        ]
        for node in _depth_first(nodes)
    ]
    title = f"{len(plan.chains)} chain(s), {len(nodes)} nodes, in {study.out}"
    print_table(title, ["node", "steps", "tokens, about", "chains", "state"], rows)
    for line in plan.advice:
        say(line)
    sums = _sums(plan, nodes)
    for name, words in (("all", "in all"), ("to_do", "still to do"), ("without_sharing", "if nothing were shared")):
        say(f"{words}: {sums[name]['steps']:,} steps, about {sums[name]['tokens']:,} tokens")


def _state(node: dict[str, Any]) -> str:
    return "done" if node["done"] else "to measure" if node["made"] else "to do"


def _depth_first(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    after: dict[str | None, list[dict[str, Any]]] = defaultdict(list)
    for node in nodes:
        after[node["parent"]].append(node)
    found: list[dict[str, Any]] = []

    def visit(parent: str | None) -> None:
        for node in after[parent]:
            found.append(node)
            visit(node["node"])

    visit(None)
    return found
