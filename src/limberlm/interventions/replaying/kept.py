"""The texts of a model that are worth keeping, in a file that a killed run goes on from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any

from limberlm.errors import UserError
from limberlm.files import write_text
from limberlm.interventions.replaying.writer import Sample


def fault_of(ids: Sequence[int], longest: int = 512) -> str | None:
    """Why a text is not worth keeping: too short, one token over and over, or few different tokens or 4-grams.

    Args:
        ids: its tokens, without the start and end token.
        longest: how long it could have become; texts of less than 32 tokens are short if they could.

    Source: the thresholds of the FoLoRA paper.

    >>> fault_of([1, 2] * 64), fault_of(range(31)), fault_of(range(32))
    ('few tokens', 'short', None)
    """
    if len(ids) < min(32, longest):
        return "short"
    run = most = 0
    for place, token in enumerate(ids):
        run = run + 1 if place and token == ids[place - 1] else 1
        most = max(most, run)
    if most >= 20:
        return "one token again and again"
    if len(ids) >= 128 and len(set(ids)) / len(ids) < 0.12:
        return "few tokens"
    grams = {tuple(ids[place : place + 4]) for place in range(len(ids) - 3)}
    return "few 4-grams" if len(ids) >= 256 and len(grams) / (len(ids) - 3) < 0.25 else None


class Kept:
    """The samples worth keeping, and how many were drawn for them.

    With a path each batch is added to that file, and to `NAME.counts.json` beside it what was drawn and thrown away.

    Attributes:
        samples: those kept, in the order drawn, as `form` made them.
        next: the number of the batch to draw now.

    """

    def __init__(
        self, path: Path | None, digest: str, longest: int, who: str, form: Callable[[Sample], Sample] = dict
    ) -> None:
        self.path, self.digest, self.longest, self.who, self.form = path, digest, longest, who, form
        self.samples = self._read() if path is not None and path.exists() else []
        self.next = max((sample["batch"] for sample in self.samples), default=-1) + 1
        self._seen = {_text_hash(sample["text"]) for sample in self.samples}
        self._drawn = self._read_counts()

    @property
    def tokens(self) -> int:
        """Of all that are kept."""
        return sum(len(sample["input_ids"]) for sample in self.samples)

    def counts(self) -> dict[str, dict[str, int]]:
        """Texts `drawn` and `kept` by component, and `rejected` by reason, of all batches."""
        found: dict[str, Counter[str]] = {"drawn": Counter(), "kept": Counter(), "rejected": Counter()}
        for batch in self._drawn.values():
            for each in found:
                found[each].update(batch[each])
        return {name: dict(sorted(counter.items())) for name, counter in found.items()}

    def add(self, batch: Sequence[Sample]) -> None:
        """Keep what is good of the next batch, and write the files.

        Raises:
            UserError: less than a fifth of what was drawn so far is worth keeping; or a file cannot be written.

        """
        drawn, kept, rejected = Counter[str](), Counter[str](), Counter[str]()
        for sample in batch:
            row = self.form(sample)
            key, component = _text_hash(row["text"]), str(sample["component"])
            fault = fault_of(sample["input_ids"], self.longest) or ("seen before" if key in self._seen else None)
            drawn[component] += 1
            if fault:
                rejected[fault] += 1
            else:
                kept[component] += 1
                self.samples.append(row)
                self._seen.add(key)
        self._drawn[str(self.next)] = {"drawn": drawn, "kept": kept, "rejected": rejected}
        self.next += 1
        self._refuse_too_few(len(batch))
        self._write()

    def _refuse_too_few(self, batch: int) -> None:
        rejected = Counter(self.counts()["rejected"])
        if rejected.total() > 4 * (len(self.samples) + batch):
            told = ", ".join(f"{name} {count}" for name, count in rejected.most_common())
            raise UserError(
                f"{self.who}: {rejected.total()} texts thrown away ({told}) and {len(self.samples)} kept: the "
                "model's own texts are no stand-in for what it was trained on; give other texts"
            )

    def _write(self) -> None:
        if self.path is None:
            return
        # counts first: of a batch whose texts are not there yet they are made again
        write_text(self._counts, json.dumps({"made_by": self.digest, "batches": self._drawn}) + "\n")
        lines = (json.dumps(sample | {"made_by": self.digest}) + "\n" for sample in self.samples)
        write_text(self.path, "".join(lines))

    @property
    def _counts(self) -> Path:
        assert self.path is not None
        return self.path.with_suffix(".counts.json")

    def _read(self) -> list[Sample]:
        assert self.path is not None
        try:
            samples = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
            makers = {sample.pop("made_by") for sample in samples}
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{self.path}: not a file that {self.who} wrote ({error}); choose another name") from None
        if makers - {self.digest}:
            raise UserError(
                f"{self.path}: written by another model or with other settings; choose another name, or remove it"
            )
        return samples

    def _read_counts(self) -> dict[str, Any]:
        """Those of the batches that are there; none where the file is lost, or of another run."""
        if self.path is None or not self._counts.exists():
            return {}
        try:
            found = json.loads(self._counts.read_text(encoding="utf-8"))
            batches = found["batches"] if found["made_by"] == self.digest else {}
            return {number: batch for number, batch in batches.items() if int(number) < self.next}
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return {}


def _text_hash(text: str) -> bytes:
    return sha1(text.encode(), usedforsecurity=False).digest()
