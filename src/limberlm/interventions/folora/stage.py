"""Foundation-preserving LoRA in a stage of a study: measured where the stage starts, then trained with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Literal, Self

from peft import LoraConfig
from pydantic import Field, field_validator, model_validator
from transformers import PreTrainedModel

from limberlm.errors import UserError
from limberlm.files import content_digest
from limberlm.interventions.context import Row, StageContext, StageFacts
from limberlm.interventions.folora.callback import FoloraCallback
from limberlm.interventions.folora.config import FoloraConfig
from limberlm.interventions.folora.optimizer import create_folora_optimizer
from limberlm.interventions.folora.prepare import preprocess_folora
from limberlm.interventions.folora.proxy import sample_proxy
from limberlm.interventions.folora.sadam import SAdam
from limberlm.interventions.folora.start import initialize_lora_folora_weights
from limberlm.interventions.folora.stats import FoloraStats
from limberlm.interventions.folora.texts import Rows
from limberlm.interventions.replaying.rows import as_texts
from limberlm.interventions.replaying.writer import weights_digest


class FoloraSettings(FoloraConfig):
    """Settings of foundation-preserving LoRA in a study: what is measured is drawn there too."""

    proxy: Literal["own", "generic"] = Field("own", description="texts that the stage's start writes, or generic text")
    texts: int = Field(256, ge=1, description="texts of the proxy; the paper draws 2,000")
    max_new_tokens: int = Field(512, ge=1, description="the longest of its own texts")
    task_rows: int = Field(256, ge=1, description="rows of the stage that are measured")
    optimizer: Literal["spectral", "adamw"] = Field("spectral", description="adamw: the start and the penalty alone")
    lr_b: float | None = Field(None, gt=0, description="learning rate of B; the stage's, if not given")
    penalty: float = Field(0.0, ge=0, description="of the drift tr(dW Cp dW'), beside the trainer's loss")

    @field_validator("init")
    @classmethod
    def _base_is_kept(cls, init: str) -> str:
        if init == "null_residual":
            raise ValueError("null_residual changes the base that later stages start from; give null_zero or keep")
        return init

    @model_validator(mode="after")
    def _spectral_settings(self) -> Self:
        if self.optimizer == "adamw" and self.lr_b is not None:
            raise ValueError("lr_b is of the spectral optimizer; leave it out with optimizer: adamw")
        return self

    @property
    def config(self) -> FoloraConfig:
        """Those that are not of the stage."""
        return FoloraConfig(**self.model_dump(include=set(FoloraConfig.model_fields)))


def refusal(settings: FoloraSettings, stage: StageFacts) -> str | None:
    """Why a stage cannot be trained so, or None."""
    if not stage.lora:
        return "the stage trains all weights, and only adapters are trained in a basis"
    if stage.hand_over == "continue":
        return "with hand_over: continue an adapter goes on that has moved already; use merge or stack"
    return None


def equipped(
    settings: FoloraSettings,
    context: StageContext,
    rows: Sequence[Row],
    model: PreTrainedModel,
    adapter: LoraConfig | None,
) -> Callable[[Any], None]:
    """Measure the stage's start; what is returned gives a trainer the start, the optimizer and the drift meter.

    Args:
        settings: of the arm.
        context: of the stage.
        rows: what the stage is trained on.
        model: its start, without the adapter that it will train.
        adapter: that.

    Raises:
        UserError: as `sample_proxy`, `preprocess_folora` and `create_folora_optimizer`, and of a stage without a fresh
            adapter.

    """
    if adapter is None:
        raise UserError("folora: the stage has no fresh adapter to train in a basis")
    task = list(islice((row for row in rows if as_texts(row) is not None), settings.task_rows))
    proxy, config = _proxy(settings, context, model), settings.config
    stats = preprocess_folora(model, adapter, config, proxy=proxy, task=task, tokenizer=context.tokenizer)

    def fit(trainer: Any) -> None:
        initialize_lora_folora_weights(trainer.model, stats)
        if settings.optimizer == "spectral":
            trainer.optimizer = _optimizer(trainer, stats, settings.lr_b)
        trainer.add_callback(FoloraCallback(stats, penalty=settings.penalty))

    return fit


def _optimizer(trainer: Any, stats: FoloraStats, lr_b: float | None) -> SAdam:
    args = trainer.args
    return create_folora_optimizer(
        trainer.model,
        stats,
        lr=args.learning_rate,
        lr_b=lr_b,
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epsilon,
        weight_decay=args.weight_decay,
    )


def _proxy(settings: FoloraSettings, context: StageContext, model: PreTrainedModel) -> Rows:
    if settings.proxy == "generic":
        return [{"text": text} for text in context.texts()[: settings.texts]]
    longest = settings.max_new_tokens
    name = content_digest([weights_digest(model), context.seed, longest], 64)  # arms of one start draw one file
    tokenizer = context.tokenizer
    return sample_proxy(
        model,
        tokenizer,
        n=settings.texts,
        max_new_tokens=longest,
        seed=context.seed,
        start_token=tokenizer.eos_token_id if tokenizer.bos_token_id is None else None,  # it stands between documents
        out=None if context.shared is None else context.shared / f"{name}.jsonl",
    )
