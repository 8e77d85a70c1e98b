"""A stage that ends with the weights that did best out of domain: no hub and no GPU.

python examples/early_stop.py --out runs/early_stop
python examples/early_stop.py --out runs/early_stop --patience 3
"""

from __future__ import annotations

import argparse

from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from limberlm.interventions import OutOfDomainStop
from limberlm.interventions.rivals.answers import answer_loss, encode_answers
from limberlm.testbed import BUNDLED_BASE, SKILLS
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
    """Train, then print the loss along the way, and that of the weights that are left on rows nobody chose by."""
    parser = argparse.ArgumentParser(description="SFT with OutOfDomainStop on the bundled base")
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--evaluations", type=int, default=8)
    parser.add_argument("--patience", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    shifted = arithmetic("out_of_domain", 64)
    choose, report = shifted[::2], shifted[1::2]
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
        callbacks=[OutOfDomainStop(rows=choose, evaluations=options.evaluations, patience=options.patience)],
    )
    trainer.train()
    trainer.save_model()  # holds the chosen weights

    print("step  loss on the rows to choose by")
    for entry in trainer.state.log_history:
        if "limber/early_stop/loss" in entry:
            print(f"{entry['step']:4d}  {entry['limber/early_stop/loss']:.3f}")
    print(f"left: the weights of step {trainer.state.log_history[-1]['limber/early_stop/step']:.0f}")
    model = trainer.model.eval()
    for name, rows in {"shifted, not chosen by": report, "in domain": arithmetic("in_domain", 48)}.items():
        answers = encode_answers(rows, trainer.processing_class, name)
        print(f"{name:24} {answer_loss(model, answers, 32):.3f} nats per token")


if __name__ == "__main__":
    main()
