"""Foundation-preserving LoRA (arXiv 2606.00132): a basis from second moments, a start, an optimizer, a drift meter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limberlm.lazy import lazily

if TYPE_CHECKING:
    from limberlm.interventions.folora.callback import FoloraCallback
    from limberlm.interventions.folora.config import FoloraConfig
    from limberlm.interventions.folora.optimizer import FoloraOptimizerFactory, create_folora_optimizer
    from limberlm.interventions.folora.prepare import preprocess_folora
    from limberlm.interventions.folora.proxy import sample_proxy
    from limberlm.interventions.folora.start import initialize_lora_folora_weights, save_folora_pretrained
    from limberlm.interventions.folora.stats import FoloraStats

__all__ = [
    "FoloraCallback",
    "FoloraConfig",
    "FoloraOptimizerFactory",
    "FoloraStats",
    "create_folora_optimizer",
    "initialize_lora_folora_weights",
    "preprocess_folora",
    "sample_proxy",
    "save_folora_pretrained",
]

__getattr__ = lazily(
    __name__,
    {
        "FoloraCallback": "callback",
        "FoloraConfig": "config",
        "FoloraOptimizerFactory": "optimizer",
        "FoloraStats": "stats",
        "create_folora_optimizer": "optimizer",
        "initialize_lora_folora_weights": "start",
        "preprocess_folora": "prepare",
        "sample_proxy": "proxy",
        "save_folora_pretrained": "start",
    },
)
