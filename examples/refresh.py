"""A stage whose weights are moved back towards its start at the end, or on the way: no hub and no GPU.

python examples/refresh.py --out runs/refresh                                   # rescale the adapter after training
python examples/refresh.py --out runs/refresh --kind anchor --when every:20     # short phases on generic text
python examples/refresh.py --out runs/refresh --kind spectral                   # damp intruding directions
python examples/refresh.py --out runs/refresh --kind none                       # the same stage without
"""

from __future__ import annotations

import argparse

from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from limberlm.interventions import FeatureRefresh
from limberlm.interventions.rivals.answers import answer_loss, encode_answers
from limberlm.testbed import BUNDLED_BASE, SKILLS
from limberlm.testbed.prose import passages
from limberlm.testbed.skill import Split


def arithmetic(split: Split, count: int) -> list[dict[str, object]]:
    """Conversations of one turn, as TRL takes them."""
    return [
        {
            "prompt": [{"role": "user", "content": sample.prompt}],
            "completion": [{"role": "assistant", "content": sample.answer}],
        }
        for sample in SKILLS["arithmetic"].samples(split, count)
    ]


def main() -> None:
    """Train, then print what was refreshed, and how well the model does on the task, past it and on plain prose."""
    parser = argparse.ArgumentParser(description="SFT with FeatureRefresh on the bundled base")
    parser.add_argument("--out", required=True)
    parser.add_argument("--kind", default="shrink", choices=["anchor", "shrink", "spectral", "none"])
    parser.add_argument("--when", default="end", help="end, or every:M")
    parser.add_argument("--repair", default=None, choices=["intruders", "directions"], help="of --kind spectral")
    parser.add_argument("--rho", type=float, default=None, help="of --kind shrink")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    settings = {name: getattr(options, name) for name in ("repair", "rho") if getattr(options, name) is not None}
    if options.kind == "anchor":
        settings["texts"] = passages("train", 256)
    callbacks = [] if options.kind == "none" else [FeatureRefresh(options.kind, options.when, **settings)]

    trainer = SFTTrainer(
        model=str(BUNDLED_BASE),
        args=SFTConfig(
            output_dir=options.out,
            max_steps=options.steps,
            per_device_train_batch_size=16,
            learning_rate=2e-3,
            logging_steps=10,
            save_strategy="no",
            report_to="none",
            bf16=False,
            seed=options.seed,
        ),
        train_dataset=Dataset.from_list(arithmetic("train", 2048)),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=callbacks,
    )
    trainer.train()
    trainer.save_model()  # holds the refreshed weights

    for entry in trainer.state.log_history:
        found = {name.rpartition("/")[2]: value for name, value in entry.items() if name.startswith("limber/refresh")}
        if found:
            print(f"step {entry['step']}:", ", ".join(f"{name} {value:.3g}" for name, value in found.items()))

    held_out = {
        "arithmetic": arithmetic("in_domain", 48),
        "arithmetic, shifted": arithmetic("out_of_domain", 64)[1::2],  # those that early_stop.py does not choose by
        "prose": [{"text": text} for text in passages("in_domain", 48)],
    }
    model = trainer.model.eval()
    for name, rows in held_out.items():
        answers = encode_answers(rows, trainer.processing_class, name)
        print(f"{name:20} {answer_loss(model, answers, 32):.3f} nats per token")


if __name__ == "__main__":
    main()
