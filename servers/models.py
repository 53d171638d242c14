"""The models that can be asked for by name: where they are published, their geometry, which engines serve them."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from servers.base import ServerError

_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model. `layers` are the decoder's; `dtype` is the type it is served in; None is unknown."""

    name: str
    repo_id: str
    parameters: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    dtype: Literal["float16", "bfloat16", "float32"]
    context: int
    engines: tuple[str, ...]
    kind: Literal["decoder", "encoder-decoder"] = "decoder"
    encoder_parameters: int = 0
    encoder_layers: int = 0
    gated: bool = False
    download_bytes: int | None = None

    def __post_init__(self) -> None:
        # TOML has arrays, which arrive as lists; a frozen value holds a tuple.
        object.__setattr__(self, "engines", tuple(self.engines))

    @property
    def bytes_per_value(self) -> int:
        """Bytes of one weight or one KV entry as served."""
        return _BYTES[self.dtype]

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights as served."""
        return self.parameters * self.bytes_per_value

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of self-attention keys and values that one decoder token leaves behind."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.bytes_per_value

    @property
    def cross_kv_bytes_per_token(self) -> int:
        """Bytes of cross-attention keys and values that one encoder token leaves behind; 0 without an encoder."""
        return self.kv_bytes_per_token if self.kind == "encoder-decoder" else 0


def load_models() -> dict[str, ModelSpec]:
    """Return every known model by its name, in the order of models.toml."""
    table = tomllib.loads(resources.files("servers").joinpath("models.toml").read_text("utf-8"))
    return {name: ModelSpec(name=name, **fields) for name, fields in table.items()}


def find_model(text: str) -> ModelSpec:
    """Return the model of this name or repository id, in any case.

    Raises:
        ServerError: none is called that; names the closest and all.
    """
    models = load_models()
    keys = {key.lower(): spec for spec in models.values() for key in (spec.name, spec.repo_id)}
    wanted = text.strip().lower()
    if wanted in keys:
        return keys[wanted]
    close = difflib.get_close_matches(wanted, keys, n=1)
    guess = f"did you mean {keys[close[0]].name}? " if close else ""
    raise ServerError(f"no model is called {text!r}", hint=f"{guess}known models: {', '.join(models)}", exit_code=2)
