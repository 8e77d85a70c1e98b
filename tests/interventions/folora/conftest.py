"""The models that foundation-preserving LoRA is tried on."""

from tests.interventions.behaviour.conftest import gpt2_folder

__all__ = ["gpt2_folder"]
