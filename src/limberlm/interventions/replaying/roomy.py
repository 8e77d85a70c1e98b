"""A model's cache with room for tokens to come: each is written into it, where transformers copies all before it."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer [batch, heads, length, width], in buffers that double when they are full.

    Args:
        filled: the layer whose place it takes.

    """

    def __init__(self, filled: DynamicLayer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        keys, values = cast(Tensor, filled.keys), cast(Tensor, filled.values)
        self.lazy_initialization(keys, values)
        self._buffers = keys[:, :, :0], values[:, :, :0]
        self.update(keys, values)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write what is new behind what is there; returns all of it."""
        before = self.get_seq_length()
        after = before + key_states.shape[2]
        if after > self._buffers[0].shape[2]:
            self._buffers = (_doubled(self._buffers[0], before, after), _doubled(self._buffers[1], before, after))
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, before:after] = new
        self.keys, self.values = (buffer[:, :, :after] for buffer in self._buffers)
        return self.keys, self.values


def _doubled(buffer: Tensor, before: int, after: int) -> Tensor:
    batch, heads, _, width = buffer.shape
    larger = buffer.new_empty(batch, heads, 2 * after, width)
    larger[:, :, :before] = buffer[:, :, :before]
    return larger


def roomy(cache: Any) -> Any:
    """A model's cache, whose plain layers make room; those of sliding windows or recurrent states stay as they are."""
    layers = getattr(cache, "layers", [])
    for place, layer in enumerate(layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            layers[place] = RoomyLayer(layer)
    return cache
