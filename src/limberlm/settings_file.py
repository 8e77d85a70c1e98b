"""Files of settings in YAML, read so that what is wrong with one is told in a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from limberlm.errors import UserError, reason_of

MOST = 100_000
"""Values in a file, counted as often as its anchors repeat them."""
LONGEST = 2**20
"""Bytes of a file: a parser takes seconds for each million."""


def read_settings(path: Path, what: str) -> dict[str, Any]:
    """The mapping that a file of settings holds; `what` the file should be, as "study file".

    Raises:
        UserError: it is not there, cannot be read, or as in `parse_settings`.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("a folder, pipe or device, not a file")
        with path.open("rb") as file:
            content = file.read(LONGEST + 1)
        text = content.decode("utf-8-sig") if len(content) <= LONGEST else None
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what}; name a file that is there") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a {what} ({error})") from None
    if text is None:
        raise UserError(f"{path}: longer than 1 MiB, as no {what} is; name another file")
    return parse_settings(text, str(path), what)


def parse_settings(text: str, where: str, what: str) -> dict[str, Any]:
    """The mapping that YAML text holds; `where` starts the error message.

    Raises:
        UserError: it is not YAML (names the line), holds one setting twice, or something else than a mapping.
    """
    try:
        content = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(
            f"{where}{line}: not valid YAML ({getattr(error, 'problem', None) or reason_of(error)})"
        ) from None
    except RecursionError:
        raise UserError(f"{where}: nested too deeply for a {what}") from None
    except (ValueError, AttributeError) as error:  # a number or a date that is none
        raise UserError(f"{where}: not valid YAML ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{where}: a {what} is a mapping from settings to values")
    return content


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses what would be read otherwise than it was meant, or never be read."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _size(node, {}) > MOST:
            raise _refusal(f"more than {MOST:,} values", node)
        return node


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Values below a node; an anchor's count wherever it is used.

    Raises:
        ConstructorError: a setting is there twice, of which PyYAML would keep the last; or a scalar is refused.
    """
    if id(node) not in known:
        known[id(node)] = MOST  # what an anchor counts inside itself, which has no end
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
        if isinstance(node, yaml.MappingNode):
            _refuse_twice(parts[::2])
        elif isinstance(node, yaml.ScalarNode):
            _refuse_unwritable(node)
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def _refuse_twice(keys: list[yaml.Node]) -> None:
    seen = set()
    for key in (key for key in keys if isinstance(key, yaml.ScalarNode)):
        if key.value in seen:
            raise _refusal(f'"{key.value}" is there twice', key)
        seen.add(key.value)


def _refuse_unwritable(node: yaml.ScalarNode) -> None:
    """What no path can hold, no file in UTF-8, or no JSON."""
    if "\0" in node.value or any("\ud800" <= sign <= "\udfff" for sign in node.value):
        raise _refusal("a character that no file can hold", node)
    if node.tag.endswith(":float") and node.value.lstrip("+-").lower() in (".nan", ".inf"):
        raise _refusal(f"{node.value} is no finite number", node)


def _refusal(why: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, why, node.start_mark)
