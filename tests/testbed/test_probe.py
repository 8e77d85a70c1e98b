"""The testbed's probe has a domain label on every row and none of what a chain trains on."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from limberlm.testbed import SKILLS
from limberlm.testbed.probe import probe_rows


def test_every_domain_has_its_share_of_rows() -> None:
    counts = Counter(row["domain"] for row in probe_rows(chat=True, prose=10, samples=6))
    chain = [skill.name for skill in SKILLS.values() if skill.kind == "sft"]
    assert set(chain) >= {"instructions", "refusals", "arithmetic", "long_arithmetic", "programs"}
    assert counts == {"prose": 10, "drama": 5} | dict.fromkeys(chain, 6)


def test_chat_and_text_rows_say_the_same() -> None:
    chat, text = probe_rows(chat=True, prose=2, samples=5), probe_rows(chat=False, prose=2, samples=5)
    for one, other in zip(chat, text, strict=True):
        assert one["domain"] == other["domain"]
        said = "\n".join(turn["content"] for turn in one["messages"]) if "messages" in one else one["text"]
        assert said == other["text"]


def test_future_tasks_and_training_prompts_stay_out_of_it() -> None:
    rows = probe_rows(chat=False)
    prompts = {row["text"].split("\n")[0] for row in rows}
    for skill in SKILLS.values():
        if skill.kind == "future":
            assert skill.name not in {row["domain"] for row in rows}
        else:
            assert prompts.isdisjoint(s.prompt for s in islice(skill.stream("train"), 3000))
