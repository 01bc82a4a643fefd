"""A language of eight modes and a small Llama that has learned it, so that some of what it computes is used.

A document is a row of words. A word of a mode (`mode0`, …) says which table of successors holds from there on; each
table leads into fifty words of its own, which the modes share in part. The next word therefore depends on the last word
and on the mode, which may stand many tokens back. Before some words the mode changes; some words are drawn at random.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

MODES, WORDS, LED_TO = 8, 200, 50
LENGTH = 31
"""Words of a document: with BOS it is one window."""
ENTRIES = ("<bos>", *(f"mode{i}" for i in range(MODES)), *(f"word{i}" for i in range(WORDS)))
CHANGES, STRAYS = 0.1, 0.15


def documents(n: int, seed: int) -> np.ndarray:
    """Documents as ids of `ENTRIES` without BOS: [document, word]."""
    tables = np.random.default_rng(0)  # the language; `seed` draws documents in it
    successors = np.stack([tables.choice(tables.choice(WORDS, LED_TO, replace=False), WORDS) for _ in range(MODES)])
    rng = np.random.default_rng(seed)
    mode, word = rng.integers(MODES, size=n), rng.integers(WORDS, size=n)
    columns = [1 + mode]
    for _ in range(LENGTH - 1):
        changes = rng.random(n) < CHANGES
        mode = np.where(changes, rng.integers(MODES, size=n), mode)
        following = np.where(rng.random(n) < STRAYS, rng.integers(WORDS, size=n), successors[mode, word])
        word = np.where(changes, word, following)
        columns.append(np.where(changes, 1 + mode, 1 + MODES + word))
    return np.stack(columns, axis=1)


def write_documents(path: Path, n: int, seed: int = 1) -> Path:
    """Documents as lines of JSON."""
    rows = (" ".join(ENTRIES[i] for i in document) for document in documents(n, seed))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    return path


def write_llama(folder: Path, *, steps: int) -> Path:
    """A Llama of two blocks trained for some steps on the language, with its tokenizer; 0 steps leave it random."""
    config = LlamaConfig(
        vocab_size=len(ENTRIES),
        max_position_embeddings=LENGTH + 1,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = LlamaForCausalLM(config)
        _train(model, steps)
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def _train(model: Any, steps: int, batch: int = 64) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3)
    for step in range(steps):
        ids = torch.from_numpy(np.pad(documents(batch, seed=1000 + step), ((0, 0), (1, 0))))
        for group in optimizer.param_groups:
            group["lr"] = 8e-3 * min(1.0, (step + 1) / 30, 1.1 - step / steps)
        loss = cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({entry: i for i, entry in enumerate(ENTRIES)}, unk_token=ENTRIES[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=ENTRIES[0])
