"""Bringing a run directory and its double on object storage to the same nodes and parts."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from limberlm.study.store.remote import Remote
from limberlm.study.store.store import Store

AT_ONCE = 8  # nodes or parts that are on their way (our choice)


def exchange(store: Store, remote: Remote, wanted: Mapping[str, str | None]) -> set[str]:
    """Pull what is sealed there alone, push what is sealed here alone; returns what is in neither.

    Of a node that both have, the one that keeps more files wins: it was made again for its checkpoints.

    Args:
        store: the run directory.
        remote: its double.
        wanted: names of nodes (`ID`), with None, and of parts (`ID/PART`), with their identities: another is no match.

    Raises:
        UserError: storage that does not answer, a damaged file there, or a node with other weights here and there.

    """
    nodes = [name for name in wanted if "/" not in name]
    lacking = _settled(store, remote, dict.fromkeys(nodes))
    # a part without its node was measured of weights that are gone
    parts = {name: wanted[name] for name in wanted if "/" in name and name.partition("/")[0] not in lacking}
    return lacking | _settled(store, remote, parts) | (wanted.keys() - {*nodes, *parts})


def _settled(store: Store, remote: Remote, wanted: Mapping[str, str | None]) -> set[str]:
    found = remote.records(wanted)

    def settle(name: str) -> bool:
        here, there = (
            record if record is not None and record.get("identity") == wanted[name] else None
            for record in (store.sealed(name), found.get(name))
        )
        if here is not None and there is not None:
            remote.refuse_other_weights(store, name, here, there)
        if there is not None and (here is None or len(there["digests"]) > len(here["digests"])):
            remote.pull(store, name, there)
        elif here is not None and (there is None or len(here["digests"]) > len(there["digests"])):
            remote.push(store, name)
        return here is not None or there is not None

    with ThreadPoolExecutor(AT_ONCE) as pool:
        settled = dict(zip(wanted, pool.map(settle, wanted), strict=True))
    return {name for name, is_there in settled.items() if not is_there}
