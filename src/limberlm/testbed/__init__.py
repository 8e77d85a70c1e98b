"""Procedurally generated skills with exact verifiers, public-domain prose, and the bundled base model."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from limberlm.testbed.arithmetic import ARITHMETIC
from limberlm.testbed.cipher import CIPHER
from limberlm.testbed.codebook import CODEBOOK
from limberlm.testbed.instructions import INSTRUCTIONS
from limberlm.testbed.long_arithmetic import LONG_ARITHMETIC
from limberlm.testbed.modular_map import MODULAR_MAP
from limberlm.testbed.preferences import PREFERENCES
from limberlm.testbed.programs import PROGRAMS
from limberlm.testbed.records import RECORDS
from limberlm.testbed.refusals import REFUSALS
from limberlm.testbed.skill import SPLITS, Sample, ShiftAxes, Skill, Split

_CHAIN = (INSTRUCTIONS, PREFERENCES, REFUSALS, ARITHMETIC, LONG_ARITHMETIC, PROGRAMS)
_FUTURE = (CODEBOOK, CIPHER, MODULAR_MAP, RECORDS)

SKILLS: dict[str, Skill] = {skill.name: skill for skill in (*_CHAIN, *_FUTURE)}
"""Every generated skill by name. Prose, which has no answers to verify, is in `limberlm.testbed.prose`."""

BUNDLED_BASE = Path(str(resources.files("limberlm.testbed"))) / "data" / "base"
"""The folder of the bundled base model, which `limber pretrain` makes."""

__all__ = ["BUNDLED_BASE", "SKILLS", "SPLITS", "Sample", "ShiftAxes", "Skill", "Split"]
