"""Which benchmark of lm-eval, and how it is asked."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class LmEvalTask(BaseModel):
    """One benchmark and how it is asked; the names are lm-eval's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str = Field(description="a task, group or tag of lm-eval's registry, or the path of a task's YAML file")
    include_path: str | None = Field(None, description="a folder of task files, looked up before lm-eval's own")
    limit: int | None = Field(None, ge=1, description="only the first so many documents of each task")
    num_fewshot: int | None = Field(None, ge=0, description="worked examples in the prompt; by default the task's own")
    metrics: tuple[str, ...] | None = Field(None, min_length=1, description="only these of what the task reports")
    apply_chat_template: bool = Field(False, description="ask as chat messages; the same for all checkpoints")
    gen_kwargs: dict[str, Any] = Field({}, description="on top of the task's generation_kwargs, such as max_gen_toks")
    batch_size: int = Field(16, ge=1, description="requests side by side; changes nothing but rounding")
