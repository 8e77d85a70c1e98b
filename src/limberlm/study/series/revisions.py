"""Names of checkpoints: what step a revision or folder says it is, and which names a pattern stands for."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import product

from limberlm.errors import UserError

_REVISION = re.compile(
    r"(stage(?P<stage>\d+)-)?(ingredient(?P<ingredient>\d+)-)?step_?(?P<step>\d+)(-tokens(?P<tokens>\d+(\.\d+)?)B)?"
)
_FOLDER = re.compile(r"(?:global[-_]?)?(?:step|checkpoint|ckpt|iter)[-_]?(?P<step>\d+)")
_RANGE = re.compile(r"(?P<first>\d+)\.\.(?P<last>\d+)(?:/(?P<by>\d+))?")
MOST = 100_000
"""Names that one pattern may stand for: more is a slip of the pen."""
NEAREST = 5


@dataclass(frozen=True)
class Revision:
    """What the name of a revision says.

    Attributes:
        name: itself.
        step: of its stage.
        stage: its number, None where the name has none.
        ingredient: one of the runs that are averaged at the end of a stage, or None.
        tokens: the label's, of its stage. Usually step x batch tokens rounded up to 1e9, but not always: use the step.
    """

    name: str
    step: int
    stage: int | None = None
    ingredient: int | None = None
    tokens: int | None = None


def parse_revision(name: str) -> Revision | None:
    """What a revision's name says, by the names in public use (Pythia, OLMo-2, Tulu); None if it names no step.

    >>> parse_revision("stage2-ingredient1-step11931-tokens50B")
    Revision(name='stage2-ingredient1-step11931-tokens50B', step=11931, stage=2, ingredient=1, tokens=50000000000)
    >>> parse_revision("step_40").step, parse_revision("main")
    (40, None)
    """
    found = _REVISION.fullmatch(name)
    if found is None:
        return None
    stage, ingredient = (None if found[part] is None else int(found[part]) for part in ("stage", "ingredient"))
    billions = found["tokens"]
    tokens = None if billions is None else int((Decimal(billions) * 10**9).to_integral_value(ROUND_HALF_EVEN))
    return Revision(name, int(found["step"]), stage, ingredient, tokens)


def step_of_folder(name: str) -> int | None:
    """The step that a folder's name says: `step-000010`, `step_10`, `checkpoint-500`, or a revision's name.

    >>> step_of_folder("step-000010"), step_of_folder("checkpoint-500"), step_of_folder("final")
    (10, 500, None)
    """
    found = _FOLDER.fullmatch(name)
    if found is not None:
        return int(found["step"])
    revision = parse_revision(name)
    return None if revision is None else revision.step


def expand(pattern: str) -> list[str]:
    """The names that a pattern stands for: `{a,b}` for each of a list, `{first..last/by}` for each of a range.

    Both ends of a range are included where `by` hits them; leading zeros are kept. Our choice of notation, the shell's
    with `/` for the stride.

    Raises:
        UserError: braces that do not match or are empty, a range that falls or has no stride, or too many names.

    >>> expand("step{0,8,1000..3000/1000}")
    ['step0', 'step8', 'step1000', 'step2000', 'step3000']
    """
    pieces = re.split(r"\{([^{}]*)\}", pattern)
    if any(brace in piece for piece in pieces for brace in "{}"):
        raise UserError(f'revisions: "{pattern}": its braces do not match, or are nested')
    options = [[piece] if i % 2 == 0 else _options(piece, pattern) for i, piece in enumerate(pieces)]
    total = 1
    for option in options:
        total *= len(option)
    if total > MOST:
        raise UserError(f'revisions: "{pattern}" stands for {total:,} names; {MOST:,} is the limit')
    return ["".join(parts) for parts in product(*options)]


def _options(listed: str, pattern: str) -> list[str]:
    names: list[str] = []
    for part in (part.strip() for part in listed.split(",")):
        found = _RANGE.fullmatch(part)
        if not part or (".." in part and found is None):
            raise UserError(
                f'revisions: "{pattern}": "{{{listed}}}" is no list or range; write {{0,8,1000..9000/1000}}'
            )
        names += [part] if found is None else _counted(found, pattern)
    return names


def _counted(found: re.Match[str], pattern: str) -> list[str]:
    first, last, by = int(found["first"]), int(found["last"]), int(found["by"] or 1)
    if by == 0 or first > last:
        problem = "has a stride of 0" if by == 0 else "falls"
        raise UserError(f'revisions: "{pattern}": the range {found[0]} {problem}; write it as first..last/by')
    if (last - first) // by >= MOST:
        raise UserError(f'revisions: "{pattern}": the range {found[0]} has more than {MOST:,} names')
    width = len(found["first"]) if found["first"].startswith("0") else 0
    return [f"{number:0{width}d}" for number in range(first, last + 1, by)]


def nearest_revisions(wanted: str, listed: Iterable[str]) -> list[str]:
    """The listed names closest to one that is not listed: by step if both say one, else by spelling.

    >>> nearest_revisions("step3", ["main", "step0", "step2", "step4", "step1000"])
    ['step2', 'step4', 'step0', 'step1000']
    """
    names = list(listed)
    asked = parse_revision(wanted)
    steps = {name: found.step for name in names if (found := parse_revision(name)) is not None}
    if asked is None or not steps:
        return difflib.get_close_matches(wanted, names, n=NEAREST, cutoff=0.0)
    return sorted(steps, key=lambda name: (abs(steps[name] - asked.step), steps[name]))[:NEAREST]


def refuse_unlisted(wanted: Sequence[str], listed: Iterable[str], repository: str, where: str) -> None:
    """Refuse names that the hub does not list.

    Raises:
        UserError: names the first of them, how many there are, and the nearest that exist.
    """
    names = list(listed)
    known = set(names)
    missing = [name for name in wanted if name not in known]
    if not missing:
        return
    near = ", ".join(nearest_revisions(missing[0], names)) or "none"
    more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    raise UserError(f'{where}: {repository} has no revision "{missing[0]}"{more}; the nearest are {near}')
