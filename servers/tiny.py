"""Makes tiny models with random weights, loadable by a real engine, to try the whole path where no GPU is.

    PYTHON servers/tiny.py DIR [--only NAME] [--seed N]      writes DIR/gpt2, DIR/gpt-j, DIR/falcon, ...

PYTHON is the engine's: this file is run by path in that environment and imports nothing of this project, and nothing
of this project imports it, since the core has no torch. The same seed gives the same weights and the same tokenizer.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerFast

VOCAB_SIZE = 512
CONTEXT_TOKENS = 1024
LAYERS = 2
HEADS = 2
# The smallest head that vLLM's CPU attention takes; with 16 the engine turns healthy and dies at the first request.
HEAD_DIM = 32
HIDDEN = HEADS * HEAD_DIM

_GPT = {"n_positions": CONTEXT_TOKENS, "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS}
_COMMON = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": CONTEXT_TOKENS,
}
# Grouped queries and a gated feed-forward layer, which the other three have not.
_GATED = {**_COMMON, "intermediate_size": 2 * HIDDEN, "num_key_value_heads": 1, "head_dim": HEAD_DIM}

# By directory name: the transformers model type and what differs from its default configuration.
CONFIGS: dict[str, tuple[str, dict[str, int]]] = {
    "gpt2": ("gpt2", _GPT),
    "gpt-j": ("gptj", {**_GPT, "rotary_dim": HEAD_DIM // 2}),
    "falcon": ("falcon", _COMMON),
    "mistral": ("mistral", _GATED),
    "llama": ("llama", _GATED),
}

_END = "<|endoftext|>"
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


def sentences(seed: int, count: int = 2000) -> Iterator[str]:
    """Yield invented text, words of one to three syllables, regular enough for merges to be learnt from."""
    draw = random.Random(seed)
    syllables = [first + second for first in _CONSONANTS for second in _VOWELS]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 3))) for _ in range(300)]
    for _ in range(count):
        yield " ".join(draw.choices(words, k=draw.randint(4, 12))).capitalize() + "."


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of VOCAB_SIZE entries; its end-of-text token is id 0."""
    from tokenizers import ByteLevelBPETokenizer  # noqa: PLC0415 - the engine's library, not this project's
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(sentences(seed), vocab_size=VOCAB_SIZE, special_tokens=[_END], show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer,  # noqa: SLF001 - the wrapper offers no other way to what it trained
        bos_token=_END,
        eos_token=_END,
        model_max_length=CONTEXT_TOKENS,
    )


def write_model(name: str, directory: Path, tokenizer: PreTrainedTokenizerFast, seed: int) -> int:
    """Write one model with its tokenizer; returns its number of parameters."""
    import torch  # noqa: PLC0415 - the engine's library, not this project's
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415

    model_type, settings = CONFIGS[name]
    end = tokenizer.eos_token_id
    config = AutoConfig.for_model(model_type, **settings, vocab_size=VOCAB_SIZE, bos_token_id=end, eos_token_id=end)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return int(model.num_parameters())


def main() -> int:
    """Write the models asked for and print a line for each."""
    parser = argparse.ArgumentParser(prog="tiny.py", description="Make tiny models with random weights.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--only", choices=sorted(CONFIGS), help="one model instead of all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # Run by path, Python looks for modules beside this file first, where http.py would hide the standard library's.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
    # Everything is made here; a hub that is asked all the same costs a timeout on a machine without a network.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    tokenizer = train_tokenizer(options.seed)
    for name in [options.only] if options.only else CONFIGS:
        directory = options.directory / name
        parameters = write_model(name, directory, tokenizer, options.seed)
        sys.stdout.write(f"{name:8} {parameters:>8,} parameters  {directory}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
