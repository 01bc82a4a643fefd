"""Tiny seeded networks and a tokenizer for tests: at most two layers, width 16, vocabulary at most 300."""

from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
)

VOCABULARY = 300
CONTEXT = 32
BOS = "<|bos|>"
LINES = (
    "def add(a, b):\n    return a + b\n",
    "class Stack:\n    def __init__(self):\n        self.items = []\n",
    "import os\nimport sys\n\nfor name in os.listdir(sys.argv[1]):\n    print(name)\n",
    '"""The quick brown fox jumps over the lazy dog."""\n',
    "raise ValueError('the value is not a number')\n",
)


def _seeded(make: Any, config: Any, seed: int) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make(config)
        # Non-zero biases and uneven gains, so that forgetting one of them shows.
        with torch.no_grad():
            for _, parameter in sorted(model.named_parameters()):
                if parameter.dim() == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
                elif parameter.dim() == 2:
                    parameter.mul_(5)
    return model.eval().requires_grad_(False)


def tiny_gpt2(seed: int = 0, *, n_layer: int = 2, d_model: int = 16, vocab_size: int = VOCABULARY) -> Any:
    """A GPT-2 with a tied head."""
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=CONTEXT,
        n_embd=d_model,
        n_layer=n_layer,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _seeded(GPT2LMHeadModel, config, seed)


def tiny_neox(seed: int = 0, *, parallel: bool = True) -> Any:
    """A GPT-NeoX (Pythia), with its parallel residual or without."""
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        use_parallel_residual=parallel,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _seeded(GPTNeoXForCausalLM, config, seed)


def tiny_llama(seed: int = 0) -> Any:
    """A Llama with grouped-query attention and an untied head."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=32,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    return _seeded(LlamaForCausalLM, config, seed)


def tiny_mamba(seed: int = 0) -> Any:
    """A Mamba with a tied head."""
    config = MambaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=2,
        state_size=4,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return _seeded(MambaForCausalLM, config, seed)


def tiny_bert(seed: int = 0) -> Any:
    """A BERT with its masked-language-model head."""
    config = BertConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
    )
    return _seeded(BertForMaskedLM, config, seed)


def tiny_vit(seed: int = 0) -> Any:
    """A vision transformer on 16×16 images in 4×4 patches: 16 patches and a class token."""
    config = ViTConfig(
        image_size=16,
        patch_size=4,
        num_channels=3,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        num_labels=5,
    )
    return _seeded(ViTForImageClassification, config, seed)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most 300 entries; id 0 is the only special token, BOS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=BOS)
