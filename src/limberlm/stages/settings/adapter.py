"""The LoRA adapter that a stage trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from peft import LoraConfig


class AdapterSettings(BaseModel):
    """LoRA settings under PEFT's own names; the defaults are those reported for the collapse suite (2605.30524)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    r: int = Field(16, ge=1)
    lora_alpha: int = Field(32, ge=1)
    lora_dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = "all-linear"

    def lora(self) -> LoraConfig:
        """The PEFT configuration of a fresh adapter."""
        from peft import LoraConfig, TaskType  # takes seconds, and settings are read by more than trainers

        modules = self.target_modules
        return LoraConfig(
            r=self.r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=modules if isinstance(modules, str) else list(modules),
            task_type=TaskType.CAUSAL_LM,
        )
