"""Out of domain: every skill where its format, length, vocabulary or difficulty is shifted from what training shows."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limberlm.outcomes.encoding import encode_sample
from limberlm.outcomes.retention import Outcome, context_limit, loss_row, skill_outcomes
from limberlm.testbed import SKILLS
from limberlm.testbed.skill import Split

SPLIT: Split = "out_of_domain"


def ood_outcomes(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, skills: Sequence[str], items: int
) -> list[Outcome]:
    """`accuracy` (`pair_accuracy` for preferences) and `loss` on each skill's out-of-domain split.

    The loss is that of the right answer, teacher-forced, in nats per scored token: unlike accuracy it cannot collapse
    because an answer came in another form. The items are the same for every checkpoint, so differences are paired. What
    the shift is stands in the skill's `shift`.
    """
    limit = context_limit(model)
    rows = skill_outcomes(model, tokenizer, skills, items, SPLIT)
    for name in skills:
        samples = SKILLS[name].samples(SPLIT, items)
        examples = [encode_sample(tokenizer, sample.prompt, sample.answer, limit) for sample in samples]
        rows.append(loss_row(model, tokenizer, name, examples, SPLIT))
    return rows
