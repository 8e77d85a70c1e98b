"""The verifier as a reward: 1 for a right completion, 0 for any other.

Rows keep what the verifier needs in one text column beside the prompt, which survives `datasets` whatever it holds: a
testbed sample as JSON under `sample`, the answer of a file's row under `answer`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import Any

from limberlm.testbed import SKILLS, Sample

Reward = Callable[..., list[float]]

# digits with or without thousands commas; a minus right after a digit is a subtraction
_NUMBER = re.compile(r"(?:(?<!\d)-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")


def sample_cell(sample: Sample) -> str:
    """A testbed sample as JSON."""
    return json.dumps(asdict(sample), sort_keys=True)


def cell_sample(cell: str) -> Sample:
    """The testbed sample that `sample_cell` wrote.

    >>> cell_sample(sample_cell(Sample("f(2)?", "4", cases=(("2", "4"),))))
    Sample(prompt='f(2)?', answer='4', rejected=None, choices=(), cases=(('2', '4'),))
    """
    fields = json.loads(cell)
    return Sample(**{name: _frozen(value) for name, value in fields.items()})


def same_answer(answer: str, output: str) -> bool:
    """Whether an output gives a file's answer.

    If the answer is a number, the output's last number must equal it, commas between thousands and zeros after the
    decimal point aside; otherwise the whole output must be the answer, spacing aside. Our choice.

    >>> same_answer("1200", "4 * 300 = 1,200.0"), same_answer("12", "12 or 13"), same_answer("a b", " a  b")
    (True, False, True)
    """
    if not _NUMBER.fullmatch(answer.strip()):
        return output.split() == answer.split()
    found = _NUMBER.findall(output)
    return bool(found) and _value(found[-1]) == _value(answer.strip())


def verifier_reward(source: str) -> Reward:
    """TRL's reward function for a stage's rows.

    Args:
        source: the stage's data: `testbed:SKILL`, whose verifier judges, or a file, for which `same_answer` does.

    Returns:
        A function of `completions` (texts or chat turns) and the rows' other columns, named `verifier`, which gives 1.0
        or 0.0 per completion.

    """
    skill = SKILLS[source.removeprefix("testbed:")] if source.startswith("testbed:") else None

    def judge(cell: str, output: str) -> bool:
        return skill.verify(cell_sample(cell), output) if skill else same_answer(cell, output)

    def verifier(completions: Sequence[Any], **columns: Any) -> list[float]:
        cells = columns["sample" if skill else "answer"]
        return [float(judge(cell, _text(said))) for cell, said in zip(cells, completions, strict=True)]

    return verifier


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def _value(number: str) -> Decimal:
    return Decimal(number.replace(",", ""))


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
