"""What a checkpoint can still do without its top principal directions, or with them alone."""

from __future__ import annotations

from limberlm.outcomes.ablation.outcomes import COLUMNS, ablation_outcomes, ablation_table

__all__ = ["COLUMNS", "ablation_outcomes", "ablation_table"]
