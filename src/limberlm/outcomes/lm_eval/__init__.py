"""Benchmarks of lm-eval on a model in memory, document by document, so that checkpoints can be compared in pairs.

Needs the extra `limberlm[eval]`.
"""

from __future__ import annotations

from limberlm.outcomes.lm_eval.outcomes import lm_eval_outcomes
from limberlm.outcomes.lm_eval.settings import LmEvalTask
from limberlm.outcomes.lm_eval.tasks import check_task

__all__ = ["LmEvalTask", "check_task", "lm_eval_outcomes"]
