"""A run as it goes: a table of what is at work on a terminal, one line per finished node elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.live import Live
from rich.table import Table

from limberlm.cli.console import err, tell

if TYPE_CHECKING:
    from limberlm.study.run.runner import Event

ENDED = {"done": "finished", "kept": "already there, kept", "failed": "failed"}


@dataclass
class _Work:
    """What is at work on a node: the phase, since when, and how far it is."""

    event: Event
    since: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.since

    @property
    def remaining(self) -> float | None:
        done, total = self.event.done, self.event.total
        return self.seconds * (total - done) / done if 0 < done < total else None


class Display:
    """The state of a run, fed with events; rich draws it."""

    def __init__(self) -> None:
        self.working: dict[str, _Work] = {}
        self.ended: set[str] = set()
        self.nodes = 0

    def hear(self, event: Event) -> None:
        """Take in an event."""
        self.nodes = event.nodes
        name = event.node.id
        if event.phase in (*ENDED, "made"):
            self.working.pop(name, None)
            self.ended |= {name} if event.phase in ENDED else set()
            return
        known = self.working.get(name)
        if known is not None and known.event.phase == event.phase:
            known.event = event
        else:
            self.working[name] = _Work(event)

    def __rich__(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
        table.title = f"{len(self.ended)} of {self.nodes} nodes finished" if self.nodes else "reading the study"
        for head in ("node", "phase", "step", "value", "per second", "remaining"):
            table.add_column(head, justify="left" if head in ("node", "phase") else "right")
        for work in sorted(self.working.values(), key=lambda work: work.event.position):
            table.add_row(*_cells(work))
        return table


def _cells(work: _Work) -> list[str]:
    event, left = work.event, work.remaining
    speed = f"{event.done / work.seconds:.1f}" if event.done and work.seconds > 0 else ""
    value = "" if event.value is None else f"{event.headline} {event.value:.3f}"
    steps = f"{event.done}/{event.total}" if event.total > 1 else ""
    return [event.node.id, event.phase, steps, value, speed, "" if left is None else _clock(left)]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


@contextmanager
def shown(quiet: bool) -> Iterator[Callable[[Event], None]]:
    """What to give to a run as its `watch`."""
    display = Display()
    live = Live(display, console=err, transient=True, refresh_per_second=4)

    def watch(event: Event) -> None:
        display.hear(event)
        if event.phase in ENDED and not quiet:
            why = f": {event.error.splitlines()[0]}" if event.error else ""
            line = f"[{len(display.ended)}/{event.nodes}] {event.node.id}: {ENDED[event.phase]}{why}"
            tell(line)

    if quiet or not err.is_terminal:
        yield watch
        return
    with live:
        yield watch
