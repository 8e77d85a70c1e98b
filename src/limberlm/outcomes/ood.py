"""Out of domain: every skill where its format, length, vocabulary or difficulty is shifted from what training shows."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from limberlm.outcomes.encoding import context_limit, encode_sample
from limberlm.outcomes.retention import loss_row, skill_outcomes
from limberlm.outcomes.samples import OUT_OF_DOMAIN, draw_samples
from limberlm.outcomes.scoring import Asked
from limberlm.outcomes.table import Row, item_changes, outcome_row
from limberlm.testbed import SKILLS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def shift_of(name: str) -> dict[str, Any]:
    """What a skill's out-of-domain split changes, in words, and how far along which axis: 0 same, 1 near, 2 far.

    >>> shift_of("arithmetic")["axes"]
    {'domain': 0, 'format': 0, 'difficulty': 2}
    """
    return {"shift": SKILLS[name].shift, "axes": asdict(SKILLS[name].shift_axes)}


def ood_outcomes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    skills: Sequence[str],
    items: int,
    asked: Asked | None = None,
) -> list[Row]:
    """`accuracy` (`pair_accuracy` for preferences) and `loss` on each skill's out-of-domain split.

    The loss is that of the right answer, teacher-forced, in nats per scored token: unlike accuracy it cannot collapse
    because an answer came in another form. The items are the same for every checkpoint, so differences are paired. The
    rows' `settings` hold the skill's shift (`shift_of`). Answers that `asked` holds are not generated again.
    """
    limit = context_limit(model)
    rows = skill_outcomes(model, tokenizer, skills, items, OUT_OF_DOMAIN, asked)
    for name in skills:
        samples = draw_samples(name, OUT_OF_DOMAIN, items)
        examples = [encode_sample(tokenizer, sample.prompt, sample.answer, limit) for sample in samples]
        rows.append(loss_row(model, tokenizer, name, examples, OUT_OF_DOMAIN))
    return [row | {"settings": json.dumps(shift_of(row["task"]), sort_keys=True)} for row in rows]


def gap_to_id(rows: Iterable[Row]) -> list[Row]:
    """Rows `OUTCOME_gap_to_id`: out of domain minus in domain, for every outcome and task of one checkpoint with both.

    The two splits hold different items, so nothing is paired and `items` is empty; n counts both splits. With value x
    and interval [l, u] of either, x - y has [x - y - sqrt((x - l_x)^2 + (u_y - y)^2), x - y + sqrt((u_x - x)^2 +
    (y - l_y)^2)]: Newcombe's (1998) method 10 for shares with Wilson's intervals, and for any others Zou and Donner's
    (2008).
    """
    listed = list(rows)
    inside = {_key(row): row for row in listed if row["split"] == "in_domain"}
    shifted = (row for row in listed if row["split"] == OUT_OF_DOMAIN)
    return [_unpaired(row, inside[_key(row)]) for row in shifted if _key(row) in inside]


def gap_to_base(rows: Iterable[Row], base: Iterable[Row]) -> list[Row]:
    """Rows `OUTCOME_gap_to_base`: a checkpoint's out-of-domain rows minus the base's on the same items, paired.

    Right and wrong answers have the interval of Bonett and Price, anything else Student's over the items' differences;
    there every item weighs alike, where `loss` itself weighs by tokens.

    Raises:
        UserError: the two were measured in different ways.

    """
    earlier = {_key(row): row for row in base if row["split"] == OUT_OF_DOMAIN}
    return [_paired(row, earlier[_key(row)]) for row in rows if row["split"] == OUT_OF_DOMAIN and _key(row) in earlier]


def _key(row: Row) -> tuple[str, str, int | None]:
    step = row.get("step")
    return row["outcome"], row["task"], int(step) if isinstance(step, int | np.integer) else None


def _unpaired(row: Row, other: Row) -> Row:
    gap = row["value"] - other["value"]
    down = math.hypot(row["value"] - row["low"], other["high"] - other["value"])
    up = math.hypot(row["high"] - row["value"], other["value"] - other["low"])
    return dict(row) | {
        "outcome": f"{row['outcome']}_gap_to_id",
        "value": gap,
        "std_error": math.hypot(row["std_error"], other["std_error"]),
        "low": gap - down,
        "high": gap + up,
        "n": row["n"] + other["n"],
        "items": [],
    }


def _paired(row: Row, base: Row) -> Row:
    changes = item_changes(base, row)
    verdicts = set(row["items"]) | set(base["items"]) <= {0.0, 1.0}
    made = outcome_row(
        f"{row['outcome']}_gap_to_base",
        row["task"],
        changes.tolist(),
        kind="paired" if verdicts else "mean",
        split=OUT_OF_DOMAIN,
    )
    return made | {"step": row["step"], "settings": row["settings"] if isinstance(row["settings"], str) else None}
