"""A cache with room: the same keys, values and logits as transformers' own, and other kinds of layers left alone."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, FalconMambaConfig, Gemma3TextConfig, LlamaConfig
from transformers.cache_utils import DynamicCache, DynamicLayer

from limberlm.interventions.replaying.roomy import RoomyLayer, roomy

SIZE = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
CONFIGS = {
    "full": LlamaConfig(**SIZE, **HEADS),
    "sliding and full": Gemma3TextConfig(
        **SIZE, **HEADS, sliding_window=4, layer_types=["sliding_attention", "full_attention"]
    ),
    "recurrent": FalconMambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4),
}


@pytest.mark.parametrize(("kind", "made_roomy"), [("full", 2), ("sliding and full", 1), ("recurrent", 0)])
def test_a_model_reads_on_as_with_its_own_cache(kind, made_roomy):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[kind]).eval()
    ids = torch.randint(64, (3, 24))
    caches = [model(input_ids=ids[:, :5], use_cache=True) for _ in range(2)]
    name = "past_key_values" if "past_key_values" in caches[0] else "cache_params"
    plain, with_room = (getattr(out, name) for out in caches)
    for place in range(5, 24):  # past two doublings
        with_room = roomy(with_room)
        inputs = {"input_ids": ids[:, place : place + 1], "use_cache": True}
        expected, found = (model(**inputs, **{name: cache}).logits for cache in (plain, with_room))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert sum(type(layer) is RoomyLayer for layer in with_room.layers) == made_roomy


def test_rows_are_written_behind_one_another_into_buffers_that_double():
    torch.manual_seed(0)
    states = torch.randn(2, 2, 3, 17, 4)
    cache, plain = DynamicCache(), DynamicLayer()
    cache.update(states[0, :, :, :3], states[1, :, :, :3], 0)
    plain.update(states[0, :, :, :3], states[1, :, :, :3])
    layer = roomy(cache).layers[0]
    places = set()
    for start in range(3, 17, 2):
        new = states[0, :, :, start : start + 2], states[1, :, :, start : start + 2]
        for found, expected in zip(layer.update(*new), plain.update(*new), strict=True):
            assert torch.equal(found, expected)
        assert layer.get_seq_length() == start + 2
        places.add(layer.keys.data_ptr())
    assert len(places) == 3  # room for 6, 14, 30
    assert roomy(None) is None
