"""Foundation-preserving LoRA beside plain LoRA in a TRL script: what is learnt, and what becomes of what the base knew.

python examples/folora.py --out runs/folora --arm lora folora penalty both --learning-rate 3e-4 1e-3 --steps 60 --seed 1
python examples/folora.py --out runs/folora --model path/to/model --task rows.jsonl
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import SFTConfig, SFTTrainer

from limberlm.interventions.folora import (
    FoloraCallback,
    FoloraStats,
    create_folora_optimizer,
    initialize_lora_folora_weights,
    preprocess_folora,
    sample_proxy,
    save_folora_pretrained,
)
from limberlm.outcomes.encoding import Example
from limberlm.outcomes.retention import loss_row, prose_outcome
from limberlm.testbed import BUNDLED_BASE, SKILLS

HELD_OUT = 128  # rows of the task, and texts of the base's own


def conversations(split: str, count: int) -> Dataset:
    """One question of the testbed and its answer a row, as TRL takes them."""
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": sample.prompt}],
                "completion": [{"role": "assistant", "content": sample.answer}],
            }
            for sample in SKILLS["arithmetic"].samples(split, count)
        ]
    )


def task(options: argparse.Namespace) -> tuple[Dataset, Dataset]:
    """Rows to train on, and held-out ones: the last of the file."""
    if options.task is None:
        return conversations("train", max(1024, 8 * options.steps)), conversations("in_domain", HELD_OUT)
    rows = load_dataset("json", data_files=str(options.task), split="train").select_columns(["prompt", "completion"])
    return rows.select(range(len(rows) - HELD_OUT)), rows.select(range(len(rows) - HELD_OUT, len(rows)))


def base(options: argparse.Namespace) -> Any:
    """The model before training."""
    return AutoModelForCausalLM.from_pretrained(options.model, dtype="float32")


def own_texts(options: argparse.Namespace, seed: int, count: int) -> Dataset:
    """What the base writes from nothing."""
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    return sample_proxy(
        base(options),
        tokenizer,
        n=count,
        max_new_tokens=256,  # the paper's 512 take four times as long, and suit wider models
        start_token=tokenizer.eos_token_id if tokenizer.bos_token_id is None else None,  # it stands between documents
        seed=seed,
        out=options.out / f"own-{seed}.jsonl",
    )


def known(model: Any, own: Dataset, options: argparse.Namespace) -> tuple[float, float]:
    """Loss on texts of the base's own that are not in the proxy, and on prose: nats per token."""
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    texts = [Example(tuple(ids), 1) for ids in own["input_ids"]]
    return loss_row(model, tokenizer, "own", texts)["value"], prose_outcome(model, tokenizer, 128)["value"]


def train(arm: str, rate: float, stats: FoloraStats, lora: LoraConfig, options: argparse.Namespace) -> tuple[Any, ...]:
    """One run: its model, the loss on held-out rows of the task, and the mean drift of the modules."""
    set_seed(options.seed)  # all arms' plain A begin alike
    model, optimizer = get_peft_model(base(options), lora), None  # None: the trainer's own AdamW
    if arm in ("folora", "both"):
        initialize_lora_folora_weights(model, stats)
        optimizer = create_folora_optimizer(model, stats, lr=rate)
    meter = FoloraCallback(stats, every=10, penalty=options.penalty if arm in ("penalty", "both") else 0.0)
    rows, held_out = task(options)
    rows = rows.select(range(min(8 * options.steps, len(rows))))
    args = SFTConfig(
        output_dir=str(options.out / arm),
        max_steps=options.steps,
        per_device_train_batch_size=8,
        max_length=min(1024, model.config.max_position_embeddings),
        learning_rate=rate,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        bf16=False,
        disable_tqdm=True,
        seed=options.seed,
    )
    trainer = SFTTrainer(
        model, args=args, train_dataset=rows, eval_dataset=held_out, optimizers=(optimizer, None), callbacks=[meter]
    )
    trainer.train()
    save_folora_pretrained(model, stats, options.out / f"{arm}-{rate:g}")
    return model, trainer.evaluate()["eval_loss"], sum(meter.drifts.values()) / len(meter.drifts)


def main() -> None:
    """Prepare once, train each arm at each learning rate, then print what was learnt and what became of the rest."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--model", default=BUNDLED_BASE, help="folder or hub id; by default the bundled base")
    parser.add_argument("--task", type=Path, help="JSONL with prompt and completion; by default arithmetic")
    parser.add_argument("--proxy", type=Path, help="JSONL with text; by default the model writes its own")
    parser.add_argument("--texts", type=int, default=128, help="how many it writes")
    parser.add_argument("--arm", nargs="+", default=["lora", "folora"], choices=["lora", "folora", "penalty", "both"])
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--learning-rate", nargs="+", type=float, default=[1e-3])
    parser.add_argument("--penalty", type=float, default=0.03, help="of tr(dW Cp dW'), in the arms penalty and both")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    lora = LoraConfig(r=options.rank, lora_alpha=options.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    stats = preprocess_folora(
        base(options),
        lora,
        proxy=options.proxy or own_texts(options, 0, options.texts),
        task=task(options)[0].select(range(256)),  # some 256 rows do
        tokenizer=AutoTokenizer.from_pretrained(options.model),
    )
    own = own_texts(options, 1, HELD_OUT)
    before = known(base(options), own, options)
    lines = [f"{'arm':>8}  {'rate':>6}  {'held-out loss':>13}  {'own texts':>9}  {'prose':>6}  {'drift':>9}"]
    for arm, rate in product(options.arm, options.learning_rate):
        model, loss, drift = train(arm, rate, stats, lora, options)
        texts, prose = (now - then for now, then in zip(known(model, own, options), before, strict=True))
        lines.append(f"{arm:>8}  {rate:6g}  {loss:13.4f}  {texts:+9.3f}  {prose:+6.3f}  {drift:9.2e}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
