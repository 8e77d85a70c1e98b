"""Changes of bytes and of structured values, each decided by a random generator alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from random import Random
from typing import Any

import yaml

TOKENS: tuple[bytes, ...] = (
    *(b"\0", b"\xff", b"\xed\xa0\x80", b"\xe2\x80\xae", b"\r\n", b"\x1b[31m", b"../", b"/etc/passwd", b"/dev/zero"),
    *(b"NaN", b"Infinity", b"-1", b"1e999", b"9" * 400, b"null", b"true", b"[]", b"{}", b'""', b"[" * 200, b"&a [*a]"),
    *(b"!!python/object/apply:os.system [id]", b"<<: *a", b"__class__", b"{{ 7 * 7 }}", b"{% for a in range(99999) %}"),
    *(b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\x80" * 9, b"PAR1", b"PK\x03\x04", b"\xfd7zXZ\0", b"\x80\x04."),
)
"""What has broken readers of such files before."""

VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**63, 10**30, 0.5, -0.0, 1e308, "", " ", "x", "../x", "/dev/zero", "a\0b", "\u202e", "5 %"),
    *([], {}, [[]], [None], {"": ""}, {"a": {"a": {}}}, "9" * 99, [1, "x"], "2001-01-01", "NaN", "testbed", "\ud800"),
)


def mutated(data: bytes, draw: Random, others: Sequence[bytes]) -> bytes:
    """One to eight changes: bits, bytes, cuts, repeats, tokens, and pieces of other files."""
    found = bytearray(data)
    for _ in range(1 << draw.randrange(4)):
        at = draw.randrange(len(found) + 1)
        end = min(len(found), at + (1 << draw.randrange(10)))
        kind = draw.randrange(8)
        if kind == 0 and at < len(found):
            found[at] ^= 1 << draw.randrange(8)
        elif kind == 1 and at < len(found):
            found[at] = draw.randrange(256)
        elif kind == 2:
            del found[at:end]
        elif kind == 3:
            found[at:at] = found[at:end] * draw.randrange(1, 4)
        elif kind == 4:
            found[at:at] = draw.choice(TOKENS)
        elif kind == 5:
            token = draw.choice(TOKENS)
            found[at : at + len(token)] = token
        elif kind == 6:
            other = draw.choice(others)
            start = draw.randrange(len(other) + 1)
            found[at:end] = other[start : start + end - at]
        elif draw.randrange(8) == 0:
            del found[at:]
    return bytes(found)


def restructured(content: Any, draw: Random) -> Any:
    """One to four values, somewhere inside, replaced, renamed, removed or repeated; `content` itself stays."""
    found = json.loads(json.dumps(content))
    for _ in range(1 + draw.randrange(4)):
        places = [found]
        for place in places:
            inner = place.values() if isinstance(place, dict) else place
            places += [each for each in inner if isinstance(each, dict | list)]
        _change(draw.choice(places), draw)
    return found


def _change(place: Any, draw: Random) -> None:
    keys = list(place) if isinstance(place, dict) else list(range(len(place)))
    value = deepcopy(draw.choice(VALUES))
    if not keys:
        place.update({"x": value}) if isinstance(place, dict) else place.append(value)
        return
    key, kind = draw.choice(keys), draw.randrange(8)
    if kind < 5:
        place[key] = value
    elif kind == 5:
        del place[key]
    elif isinstance(place, list):
        place.append(place[key])
    elif kind == 6:
        place[str(key) + draw.choice(("x", "\0", "", "s"))] = place[key]
    else:
        place[str(value)] = place.pop(key)


def as_json(content: Any, draw: Random) -> bytes:
    """A structured change written as JSON."""
    return json.dumps(restructured(content, draw)).encode()


def as_yaml(content: Any, draw: Random) -> bytes:
    """A structured change written as YAML."""
    return yaml.safe_dump(restructured(content, draw), sort_keys=False).encode("utf-8", "replace")
