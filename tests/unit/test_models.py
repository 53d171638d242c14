"""The table of models against what is published of them."""

from __future__ import annotations

import pytest

from servers.base import ServerError
from servers.models import find_model, load_models

# Feed-forward width, its matrices (3 with a gate), embedding tables, learned positions: what the spec does not hold.
GEOMETRY = {
    "gpt2": (3072, 2, 1, 1024),
    "gpt-neo-2.7b": (10240, 2, 1, 2048),
    "gpt-j-6b": (16384, 2, 2, 0),
    "t5-3b": (16384, 2, 1, 0),
    "falcon-7b": (18176, 2, 2, 0),
    "mistral-7b": (14336, 3, 2, 0),
    "llama-3.1-8b": (14336, 3, 2, 0),
    "llama-3.1-70b": (28672, 3, 2, 0),
    "qwen3-8b": (12288, 3, 2, 0),
    "qwen3-32b": (25600, 3, 2, 0),
}


@pytest.mark.parametrize("name", list(load_models()))
def test_parameters_follow_from_the_geometry(name: str) -> None:
    """The published count is within 0.1 % of what layers, heads and widths give, biases and norms left out."""
    model = load_models()[name]
    width, matrices, tables, positions = GEOMETRY[name]
    attention = 2 * model.hidden * model.head_dim * (model.heads + model.kv_heads)
    feed_forward = matrices * model.hidden * width
    decoder = model.layers * (attention * (2 if model.encoder_layers else 1) + feed_forward)
    encoder = model.encoder_layers * (attention + feed_forward)
    embeddings = (tables * model.vocab_size + positions) * model.hidden
    assert decoder + encoder + embeddings == pytest.approx(model.parameters, rel=1e-3)
    assert encoder == pytest.approx(model.encoder_parameters, rel=1e-3)


@pytest.mark.parametrize(("name", "kv_bytes"), [("llama-3.1-8b", 131072), ("falcon-7b", 8192), ("gpt2", 36864)])
def test_kv_bytes_count_the_kv_heads(name: str, kv_bytes: int) -> None:
    """A token's KV takes 2 x layers x KV heads x head size x bytes, so shared heads take less."""
    assert find_model(name).kv_bytes_per_token == kv_bytes


def test_every_model_is_simulated_and_an_encoder_has_cross_attention() -> None:
    """The simulated engine serves all; only the encoder-decoder keeps KV of its input."""
    models = load_models().values()
    assert all("sim" in model.engines for model in models)
    assert [model.name for model in models if model.cross_kv_bytes_per_token] == ["t5-3b"]


@pytest.mark.parametrize("text", ["mistral-7b", "Mistral-7B", " mistralai/mistral-7b-V0.1 "])
def test_a_model_is_found_by_name_or_repository_in_any_case(text: str) -> None:
    """Names and repository ids are the same model's, whatever their case."""
    assert find_model(text).name == "mistral-7b"


def test_an_unknown_model_is_refused_with_the_closest_and_all() -> None:
    """A misspelt name ends in a usage error that names the closest model and every model."""
    with pytest.raises(ServerError, match="mistral7b") as caught:
        find_model("mistral7b")
    assert caught.value.exit_code == 2
    assert "did you mean mistral-7b?" in caught.value.hint
    assert all(name in caught.value.hint for name in load_models())
