"""TRL's real trainers on replayed rows: the masks survive, every row is read, the order is kept where it matters."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from datasets import Dataset
from transformers import TrainerCallback

from limberlm.errors import UserError
from limberlm.interventions import replay
from tests.interventions.replaying.trainers import dataset, made, rows

OTHER = {"sft": "arithmetic", "grpo": "arithmetic", "dpo": "preferences", "kto": "preferences"}


class Seen(TrainerCallback):
    """The batches of the trainer's loss."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Any]] = []

    def of(self, trainer: Any) -> Any:
        compute = trainer.compute_loss

        def seen(model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
            self.batches.append(inputs)
            return compute(model, inputs, *rest, **more)

        trainer.compute_loss = seen
        return trainer


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("kind", ["sft", "dpo", "kto", "grpo"])
def test_real_trainers_run_on_replayed_rows(tiny_model_folder, tiny_tokenizer, tmp_path, kind, chat):
    new, pool = dataset(kind, 24, chat=chat), dataset(kind, 40, OTHER[kind], chat)
    mixed = replay(new, pool, 0.25, tokenizer=tiny_tokenizer)
    assert mixed.column_names == new.column_names
    assert len(mixed) >= 20
    trainer = made(kind, tiny_model_folder, tmp_path, tiny_tokenizer, mixed)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert all(loss == loss for loss in losses)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("chat", [False, True])
def test_prose_is_trained_whole_and_answers_only_where_they_were(
    tiny_model_folder, tiny_tokenizer, tmp_path, chat, packing
):
    """Through SFTTrainer's own preparation and collator: what of each text has a label."""
    new = dataset("sft", 48, "instructions", chat)
    mixed = replay(new, "generic", 0.4, tokenizer=tiny_tokenizer, max_length=256)
    steps = {"num_train_epochs": 1, "max_steps": -1, "max_length": 256, "packing": packing}
    seen = Seen()
    trainer = seen.of(made("sft", tiny_model_folder, tmp_path, tiny_tokenizer, mixed, **steps))
    trainer.train()
    alone = made("sft", tiny_model_folder, tmp_path, tiny_tokenizer, new, max_length=256)
    wanted = {tuple(row["input_ids"]): row["labels"] for row in alone.train_dataset}
    # the first token of a row is predicted from nothing, and packing takes its label away
    found = (batch["labels"][:, 0 if packing else 1 :].flatten().tolist() for batch in seen.batches)
    trained = Counter(label for labels in found for label in labels if label != -100)
    expected: Counter[int] = Counter()
    prose = 0
    for row in made("sft", tiny_model_folder, tmp_path, tiny_tokenizer, mixed, max_length=256).train_dataset:
        labels = wanted.get(tuple(row["input_ids"]), row["input_ids"])
        prose += tuple(row["input_ids"]) not in wanted
        assert row["labels"] == labels
        expected.update(label for label in labels[1:] if label != -100)
    assert prose > 5
    assert trained == expected


def test_kto_reads_the_rows_in_the_order_of_the_mixture(tiny_model_folder, tiny_tokenizer, tmp_path):
    mixed = replay(dataset("kto", 24), dataset("kto", 12, "preferences"), 0.3, tokenizer=tiny_tokenizer, max_length=64)
    seen = Seen()
    sequential = {"train_sampling_strategy": "sequential", "max_steps": len(mixed) // 4}
    trainer = seen.of(made("kto", tiny_model_folder, tmp_path, tiny_tokenizer, mixed, **sequential))
    trainer.train()
    read = [bool(label) for batch in seen.batches for label in batch["label"]]
    assert read == mixed["label"][: len(read)]
    assert len(read) == len(mixed) // 4 * 4


def test_a_shuffling_trainer_reads_every_row_once_in_one_epoch(tiny_model_folder, tiny_tokenizer, tmp_path):
    mixed = replay(dataset("sft", 30), dataset("sft", 30, "arithmetic"), 0.2, tokenizer=tiny_tokenizer)
    seen = Seen()
    epoch = {"num_train_epochs": 1, "max_steps": -1, "max_length": 256}
    trainer = seen.of(made("sft", tiny_model_folder, tmp_path, tiny_tokenizer, mixed, **epoch))
    order = [tuple(row["input_ids"]) for row in trainer.train_dataset]
    trainer.train()
    read = [
        tuple(ids[mask.bool()].tolist())
        for batch in seen.batches
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert Counter(read) == Counter(order)
    assert read != order


def test_a_stream_is_trained_on(tiny_model_folder, tiny_tokenizer, tmp_path):
    stream = replay(dataset("sft", 64, chat=True).to_iterable_dataset(), "generic", 0.3, tokenizer=tiny_tokenizer)
    trainer = made("sft", tiny_model_folder, tmp_path, tiny_tokenizer, stream)
    trainer.train()
    assert trainer.state.global_step == 2


def test_a_reward_sees_the_columns_of_replayed_prompts(tiny_model_folder, tiny_tokenizer, tmp_path):
    lacking = Dataset.from_list([{"prompt": row["prompt"]} for row in rows("grpo", 10, "arithmetic")])
    with pytest.raises(UserError, match='the training rows have the column "answer", which the pool\'s rows lack'):
        replay(dataset("grpo", 16), lacking, 0.5, tokenizer=tiny_tokenizer)
