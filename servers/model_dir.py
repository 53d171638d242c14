"""A model directory in the hub's layout, read for its geometry: config.json and the size of the weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from servers.base import ServerError
from servers.models import ModelSpec

if TYPE_CHECKING:
    from pathlib import Path

_WEIGHTS = ("*.safetensors", "*.bin")


def read_model_dir(path: Path) -> ModelSpec:
    """Return the geometry of the model in `path`. Engines that serve it are not known from there: vLLM is assumed to.

    Raises:
        ServerError: there is no readable config.json, or it describes no language model.
    """
    try:
        config: dict[str, Any] = json.loads((path / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ServerError(
            f"{path} is not a model directory: {error}", hint="it needs a config.json", exit_code=2
        ) from error

    def first(*names: str) -> int | None:
        return next((int(config[name]) for name in names if isinstance(config.get(name), int)), None)

    hidden, layers = first("hidden_size", "n_embd", "d_model"), first("num_hidden_layers", "n_layer", "num_layers")
    heads, vocabulary = first("num_attention_heads", "n_head", "num_heads"), first("vocab_size")
    if hidden is None or layers is None or heads is None or vocabulary is None:
        raise ServerError(f"{path}/config.json describes no language model", hint="name another", exit_code=2)
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
    spec = ModelSpec(
        name=path.resolve().name,
        repo_id=str(path.resolve()),
        parameters=0,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=first("num_key_value_heads", "num_kv_heads") or heads,
        head_dim=first("head_dim", "d_kv") or hidden // heads,
        vocab_size=vocabulary,
        dtype=dtype if dtype in ("float16", "bfloat16") else "float32",  # type: ignore[arg-type]  # one of three
        context=first("max_position_embeddings", "n_positions") or 2048,
        engines=("vllm",),
    )
    weight_bytes = sum(file.stat().st_size for pattern in _WEIGHTS for file in path.glob(pattern))
    return ModelSpec(**{**_fields(spec), "parameters": weight_bytes // spec.bytes_per_value})


def _fields(spec: ModelSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in ModelSpec.__slots__}
