"""Replay in a stage of a study: its steps and tokens stay, its pool comes from the chain."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from peft import PeftModel
from transformers import LlamaForCausalLM

from limberlm.errors import UserError
from limberlm.interventions.context import StageContext
from limberlm.interventions.replaying.pools import cut_rows, earlier_rows, generic_rows
from limberlm.interventions.replaying.rendering import Renderer
from limberlm.interventions.replaying.rows import form_of
from limberlm.interventions.replaying.settings import ReplaySettings, refusal
from limberlm.interventions.replaying.stage import rows_read, stage_rows, stage_start
from limberlm.observe.probe.probe_set import ProbeSet
from limberlm.study import Study
from limberlm.testbed.probe import probe_rows
from limberlm.testbed.prose import documents
from tests.interventions.replaying.trainers import letters, rows
from tests.stages.runs import logits, lora


@pytest.fixture
def context(tiny_model_folder, tiny_tokenizer):
    def make(stages: Sequence[Any] = (), trainer: str = "sft", **more: Any) -> StageContext:
        given: dict[str, Any] = {
            "trainer": trainer,
            "seed": 5,
            "hand_over": "merge",
            "base": tiny_model_folder,
            "earlier": [],
            "tokenizer": tiny_tokenizer,
            "texts": lambda: documents("train")[:2],
            "earlier_rows": lambda: stages,
            "out_of_domain": lambda: ([], []),
            "probe": lambda: ProbeSet.build(probe_rows(chat=False, prose=8, samples=8), tiny_tokenizer),
        }
        return StageContext(**given | more)

    return make


def tokens(found: Sequence[Any], tokenizer: Any) -> list[int]:
    render = Renderer(tokenizer)
    return [render.tokens(row, form_of(row, row, "rows")) for row in found]


def mixture(settings: ReplaySettings, where: StageContext, own: list[Any], reads: int | None = None) -> list[Any]:
    return list(stage_rows(settings, where, own, reads=reads or len(own)).rows)


def test_the_stage_keeps_its_steps_and_its_tokens(context, tiny_tokenizer):
    own = rows("sft", 300, "instructions")
    earlier = [rows("sft", 200, "programs"), rows("sft", 300, "long_arithmetic")]
    made = stage_rows(ReplaySettings(ratio=0.2), context(earlier), own, reads=160)
    mixed, figures = made.rows, made.mix.figures()
    assert len(mixed) == figures["rows"] == 160
    lengths = tokens(mixed, tiny_tokenizer)
    replayed = sum(n for n, row in zip(lengths, mixed, strict=True) if row not in own)
    assert abs(replayed - 0.2 * sum(lengths)) <= max(lengths)
    assert figures["tokens"] == sum(lengths)
    assert abs(figures["tokens"] - figures["tokens_without"]) <= max(tokens(own, tiny_tokenizer))
    assert sum(lengths) / 160 == pytest.approx(sum(tokens(own, tiny_tokenizer)) / 300, rel=0.03)


def test_without_a_ratio_or_earlier_stages_the_rows_are_left_alone(context):
    own = rows("sft", 4)
    assert stage_rows(ReplaySettings(ratio=0), context(), own, reads=9).rows is own
    assert stage_rows(ReplaySettings(ratio=0.5), context(), own, reads=9).rows is own


def test_a_stage_that_reads_its_rows_several_times_has_the_share_over_all_of_it(context):
    own = rows("sft", 10, "arithmetic")
    mixed = mixture(ReplaySettings(ratio=0.25, pool="generic"), context(), own, reads=80)
    assert len(mixed) == 80
    assert 10 <= sum(row["labels"] == row["input_ids"] for row in mixed) <= 35


def test_the_seed_of_the_stage_and_the_pool_decide(context):
    own, earlier = rows("sft", 40), [rows("sft", 30, "programs")]
    settings = ReplaySettings(ratio=0.3)
    one, again = (mixture(settings, context(earlier), own) for _ in range(2))
    assert one == again
    assert mixture(settings, context(earlier, seed=6), own) != one
    assert mixture(settings, context([rows("sft", 30, "arithmetic")]), own) != one


def test_the_reservoir_is_balanced_over_the_stages_whatever_their_sizes():
    stages = [rows("sft", 400, "arithmetic"), rows("sft", 1000, "programs"), rows("sft", 350, "instructions")]
    parts = earlier_rows(stages, "texts", rows=300, seed=1)
    assert [len(part) for part in parts] == [100, 100, 100]
    assert all(row in stage for part, stage in zip(parts, stages, strict=True) for row in part)
    assert parts == earlier_rows(stages, "texts", rows=300, seed=1) != earlier_rows(stages, "texts", rows=300, seed=2)
    chances = [
        stages[0].index(row) for seed in range(40) for row in earlier_rows(stages[:1], "texts", rows=20, seed=seed)[0]
    ]
    assert 200 - 5 * 4.1 < sum(chances) / len(chances) < 200 + 5 * 4.1  # the mean of 800 uniform draws of 400


def test_replayed_tokens_are_balanced_over_the_stages(context, tiny_tokenizer):
    stages = [rows("sft", 200, "arithmetic"), rows("sft", 200, "programs"), rows("sft", 200, "instructions")]
    mixed = mixture(ReplaySettings(ratio=0.3), context(stages), rows("sft", 400, "long_arithmetic"))
    given = [sum(tokens([row for row in mixed if row in stage], tiny_tokenizer)) for stage in stages]
    assert max(given) - min(given) <= max(tokens(mixed, tiny_tokenizer))


def test_earlier_rows_keep_what_of_them_is_trained(context, tiny_tokenizer):
    """A preference stage's chosen answers and a stage of whole texts, beside chats."""
    pairs, texts = rows("dpo", 30, chat=True), [{"text": f"The tide turned {number} times."} for number in range(30)]
    mixed = mixture(ReplaySettings(ratio=0.5), context([pairs, texts]), rows("sft", 60, "instructions", chat=True))
    render = Renderer(tiny_tokenizer)
    chosen = [render.trained({"prompt": row["prompt"], "completion": row["chosen"]}) for row in pairs]
    whole = [render.trained(row) for row in texts]
    assert sum(row in chosen for row in mixed) > 5
    assert sum(row in whole for row in mixed) > 5
    assert all(row["labels"] == row["input_ids"] for row in whole)
    assert all(row["labels"][0] == -100 for row in chosen)


@pytest.mark.parametrize("trainer", ["dpo", "kto", "grpo"])
def test_stages_of_other_rows_do_not_serve(context, trainer):
    settings, own = ReplaySettings(ratio=0.3), rows(trainer, 20)
    mixed = mixture(settings, context([rows("sft", 20), rows(trainer, 30)], trainer), own)
    assert len(mixed) == 20
    assert set(mixed[0]) == set(own[0])
    with pytest.raises(UserError, match=r"the earlier stages have texts, and a trainer of .* needs a pool of"):
        mixture(settings, context([rows("sft", 20)], trainer), own)
    for pool in ("generic", "self"):
        told = refusal(ReplaySettings(ratio=0.1, pool=pool), trainer)
        assert told.startswith(f"pool: {pool} has texts, and the {trainer} trainer reads ")
    assert refusal(ReplaySettings(ratio=0.1), trainer) is None


def test_unwanted_answers_are_not_replayed_as_texts():
    labelled = rows("kto", 20)
    (kept,) = earlier_rows([labelled], "texts")
    assert len(kept) == 10
    wanted = [row["completion"] for row in labelled if row["label"]]
    assert sorted(row["completion"] for row in kept) == sorted(wanted)


def test_the_probe_is_not_replayed(context, tmp_path):
    path = tmp_path / "pool.jsonl"
    path.write_text(
        "".join(json.dumps({"text": row["text"]}) + "\n" for row in probe_rows(chat=False, prose=4, samples=1))
    )
    with pytest.raises(UserError, match="row 1 of the pool is measured too"):
        mixture(ReplaySettings(ratio=0.3, pool=str(path)), context(), [{"text": "The moon rose."}] * 9)


def test_own_texts_are_replayed_as_long_as_the_stages_rows(context, tiny_tokenizer):
    own = rows("sft", 60, "arithmetic")
    mixed = mixture(ReplaySettings(ratio=0.3, pool="self"), context(), own)
    drawn = [len(row["labels"]) for row in mixed if -100 not in row["labels"]]
    assert len(mixed) == 60
    assert len(drawn) >= 10
    assert set(drawn) <= set(tokens(own, tiny_tokenizer))


@pytest.mark.parametrize("hand_over", ["merge", "continue", "stack"])
def test_the_start_of_a_stage_is_the_base_with_what_was_left(context, tiny_model_folder, tmp_path, hand_over):
    folders = [lora(tiny_model_folder, tmp_path / str(seed), seed).folder for seed in (1, 2)]
    model = LlamaForCausalLM.from_pretrained(tiny_model_folder)
    for folder in folders[-1:] if hand_over == "continue" else folders:
        model = PeftModel.from_pretrained(model, folder).merge_and_unload()
    found = stage_start(context([[], []], hand_over=hand_over, earlier=folders))
    assert (logits(found) - logits(model)).abs().max() < 1e-5
    with pytest.raises(UserError, match="an earlier stage trained all weights"):
        stage_start(context([[], [], []], hand_over=hand_over, earlier=folders))


def test_rows_read_are_those_the_trainer_reads(tiny_model_folder, tiny_tokenizer, tmp_path):
    from datasets import Dataset
    from trl import DPOConfig, GRPOConfig, GRPOTrainer, SFTConfig

    args = {"output_dir": str(tmp_path), "bf16": False, "use_cpu": True, "report_to": "none", "save_strategy": "no"}
    batch = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 3}
    assert rows_read("dpo", DPOConfig(**args, **batch), 99) == 24
    assert rows_read("sft", SFTConfig(**args, num_train_epochs=2), 99) == 99
    assert rows_read("sft", SFTConfig(**args, **batch, packing=True), 99) == 99
    own = [{"prompt": f"{number}\n", "answer": "1"} for number in range(10, 60)]
    for more in ({}, {"num_iterations": 2}, {"steps_per_generation": 1}, {"steps_per_generation": 4}):
        config = GRPOConfig(**args, **batch, num_generations=2, max_completion_length=2, **more)
        seen: set[str] = set()

        def reward(prompts: list[str], seen: set[str] = seen, **columns: Any) -> list[float]:
            seen.update(prompts)
            return letters(**columns)

        trainer = GRPOTrainer(
            model=LlamaForCausalLM.from_pretrained(tiny_model_folder),
            args=config,
            train_dataset=Dataset.from_list(own),
            processing_class=tiny_tokenizer,
            reward_funcs=reward,
        )
        trainer.train()
        assert len(seen) == rows_read("grpo", config, 50)


def test_passages_lie_within_one_text_and_begin_at_words(tiny_tokenizer):
    texts = ["alpha beta gamma " * 30, "one two three four " * 200]
    found = generic_rows(tiny_tokenizer, [5, 40], texts=texts, rows=30, seed=1)
    assert len(found) > 5
    assert {len(row["input_ids"]) for row in found} == {5, 40}
    for row in found:
        text = tiny_tokenizer.decode(row["labels"]).strip()
        assert text in texts[0] or text in texts[1]
        assert text.split()[0] in {"alpha", "beta", "gamma", "one", "two", "three", "four"}
        assert tiny_tokenizer.eos_token_id not in row["input_ids"]
    assert found == generic_rows(tiny_tokenizer, [5, 40], texts=texts, rows=30, seed=1)
    with pytest.raises(UserError, match="there is no text to replay"):
        generic_rows(tiny_tokenizer, [5], texts=[" "])


def test_own_texts_are_cut_to_lengths():
    found = cut_rows([list(range(20))] * 8 + [[]], [3, 9], seed=0)
    assert len(found) == 8
    assert all(row["labels"] == list(range(len(row["input_ids"]))) for row in found)
    assert {len(row["input_ids"]) for row in found} == {3, 9}


def test_another_pool_is_another_node(make_study, tmp_path):
    pool = tmp_path / "pool.jsonl"
    names = []
    for ratio, text in ((0.1, "one"), (0.1, "two"), (0.2, "two"), (0.2, "two")):
        pool.write_text(json.dumps({"text": text}) + "\n")
        arm = [{"replay": {"ratio": ratio, "pool": "pool.jsonl"}, "stages": ["sft"]}]
        plan = Study.load(make_study(interventions={"none": [], "replay": arm}), tmp_path / "run").plan()
        names.append(set(plan.nodes))
    assert names[2] == names[3]
    assert len(names[0] & names[1] & names[2]) == 3  # the base and the arm without it
    assert names[0] != names[1] != names[2]


@pytest.mark.slow
def test_a_study_trains_an_arm_with_replay_at_the_same_steps(make_study, study_settings, tmp_path):
    args = study_settings["stages"]["sft"]["args"]
    math = {"trainer": "sft", "data": "testbed:arithmetic", "rows": 16, "args": args}
    arm = [{"replay": {"ratio": 0.5, "pool": "earlier_stages"}, "stages": ["sft", "math"]}]
    stages = study_settings["stages"] | {"math": math}
    study = Study.load(make_study(stages=stages, interventions={"none": [], "replay": arm}), tmp_path / "run")
    study.run()
    records = [json.loads(path.read_text()) for path in (tmp_path / "run").rglob("node.json")]
    (told,) = [found["replay"] for found in (record.get("interventions") for record in records) if found]
    assert "of 4 rows (4 without" in told  # only math: nothing is earlier than the first stage
    ends = study.table("training").query("stage == 'math'").groupby("arm")["step"].max()
    assert list(ends) == [2, 2]
