"""The testbed's probe set: held-out prose and skill samples, a domain label each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from limberlm.testbed import SKILLS
from limberlm.testbed.prose import passages


def probe_rows(chat: bool, prose: int = 128, samples: int = 64) -> list[dict[str, Any]]:
    """Rows for a probe set: `prose` passages each of novels and of drama, halved, and `samples` of each chain skill.

    Skill samples are conversations (`messages`) if `chat`, else plain text.
    """
    rows: list[dict[str, Any]] = [{"text": text, "domain": "prose"} for text in passages("in_domain", prose)]
    rows += [{"text": text, "domain": "drama"} for text in passages("out_of_domain", prose // 2)]
    for skill in (skill for skill in SKILLS.values() if skill.kind == "sft"):
        for sample in skill.samples("in_domain", samples):
            turns = [{"role": "user", "content": sample.prompt}, {"role": "assistant", "content": sample.answer}]
            content = {"messages": turns} if chat else {"text": f"{sample.prompt}\n{sample.answer}"}
            rows.append(content | {"domain": skill.name})
    return rows


def probe_source(probe: str, chat: bool, folder: Path = Path()) -> list[dict[str, Any]] | Path:
    """What a probe set is built from: the testbed's rows for `testbed`, else a path, relative ones in `folder`."""
    return probe_rows(chat) if probe == "testbed" else folder / probe
