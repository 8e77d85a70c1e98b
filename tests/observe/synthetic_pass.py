"""Prescribed states through the real pass, so that intervals can be held against the truth behind the states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from limberlm.geometry import CATALOG
from limberlm.observe.head import Head
from limberlm.observe.observation import Observation, Subject, observe
from limberlm.observe.plan import Plan
from limberlm.observe.presets import PRESETS
from limberlm.observe.probe import ProbeSequence, ProbeSet
from limberlm.observe.sites import EMBED, FINAL_NORM, Sites
from limberlm.observe.summary import Cell, summarise


class Told(nn.Module):
    """A part of a model that gives the states [rows, d] it was told, by token id."""

    def __init__(self, whole: Prescribed, site: str) -> None:
        super().__init__()
        self.whole, self.site = [whole], site  # in a list, so that the whole is no part of its part

    def forward(self, hidden: Tensor) -> Tensor:
        whole = self.whole[0]
        return whole.states[self.site][whole.ids]


class Prescribed(nn.Module):
    """A decoder whose states are given: the id of a token is its row in `states` [rows, d] by site."""

    def __init__(self, states: dict[str, Tensor]) -> None:
        super().__init__()
        self.states, width = states, next(iter(states.values())).shape[1]
        layers = max(1, sum(site.startswith("block.") for site in states))
        self.anchor = nn.Parameter(torch.zeros(1))
        self.blocks = nn.ModuleList(Told(self, f"block.{i}") for i in range(layers))
        self.norm = Told(self, FINAL_NORM)
        self.width = width

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> None:
        self.ids = input_ids
        if EMBED in self.states:
            hidden = self.states[EMBED][input_ids]
            for block in self.blocks:
                hidden = block(hidden)
        if FINAL_NORM in self.states:
            self.norm(self.anchor)

    @property
    def subject(self) -> Subject:
        return Subject(self, Sites(self, self.blocks, self.norm))
