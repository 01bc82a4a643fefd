"""Tiny random models of many architectures, two blocks each, with what is true of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as t

VOCABULARY, CONTEXT = 120, 64
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
}
GROUPED = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
OFFSET = {**SIZES, "max_position_embeddings": CONTEXT + 2}
GPT = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT}
T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
BART = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": CONTEXT,
}


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        make: builds a model with random weights.
        causal: position t sees only positions up to t.
        predicts: the outputs are logits of the next token.
        context: most positions a window may have.
        tokens: it runs on token ids alone.
    """

    make: Callable[[], Any]
    causal: bool = True
    predicts: bool = True
    context: int | None = CONTEXT
    tokens: bool = True


def _gemma3() -> Any:
    text = {**SIZES, "num_key_value_heads": 1, "head_dim": 8}
    ids = {"image_token_index": 119, "boi_token_index": 118, "eoi_token_index": 117}
    return t.Gemma3ForConditionalGeneration(
        t.Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4, **ids)
    )


def _llava() -> Any:
    vision = {"model_type": "clip_vision_model", "projection_dim": 16, **VISION, "num_hidden_layers": 2}
    text = {"model_type": "llama", **SIZES}
    return t.LlavaForConditionalGeneration(
        t.LlavaConfig(text_config=text, vision_config=vision, image_token_index=119, image_token_id=119)
    )


def _qwen2_vl() -> Any:
    text = {**GROUPED, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 4}
    ids = {"image_token_id": 119, "video_token_id": 118, "vision_start_token_id": 117, "vision_end_token_id": 116}
    return t.Qwen2VLForConditionalGeneration(t.Qwen2VLConfig(text_config=text, vision_config=vision, **ids))


_MPT = {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": CONTEXT}
_OPT = {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32}
_DEBERTA = {**SIZES, "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]}
_DISTIL = {"vocab_size": VOCABULARY, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
_LFM = {**SIZES, "num_key_value_heads": 2, "full_attn_idxs": [1], "block_multiple_of": 8}
_MAMBA2 = {"state_size": 4, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8}
_MIXTRAL = {**SIZES, "num_key_value_heads": 2, "num_local_experts": 4}
_NEO = {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 4, "window_size": 4}
_SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2}

ARCHITECTURES: dict[str, Architecture] = {
    "gpt2": Architecture(lambda: t.GPT2LMHeadModel(t.GPT2Config(**GPT))),
    "gpt2, bare": Architecture(lambda: t.GPT2Model(t.GPT2Config(**GPT)), predicts=False),
    "gpt2, as wide as its vocabulary": Architecture(
        lambda: t.GPT2Model(t.GPT2Config(**{**GPT, "n_embd": VOCABULARY})), predicts=False
    ),
    "gpt2, classifier of tokens, as many labels as tokens": Architecture(
        lambda: t.GPT2ForTokenClassification(t.GPT2Config(**GPT, num_labels=VOCABULARY)), predicts=False
    ),
    "gpt2, answers": Architecture(lambda: t.GPT2ForQuestionAnswering(t.GPT2Config(**GPT)), predicts=False),
    "llama": Architecture(lambda: t.LlamaForCausalLM(t.LlamaConfig(**SIZES))),
    "llama, looking ahead": Architecture(
        lambda: t.LlamaForCausalLM(t.LlamaConfig(**SIZES, is_causal=False)), causal=False, predicts=False
    ),
    "llama, reward": Architecture(
        lambda: t.LlamaForSequenceClassification(t.LlamaConfig(**SIZES, num_labels=1, pad_token_id=0)), predicts=False
    ),
    "mistral, sliding": Architecture(lambda: t.MistralForCausalLM(t.MistralConfig(**GROUPED, sliding_window=4))),
    "mixtral": Architecture(lambda: t.MixtralForCausalLM(t.MixtralConfig(**_MIXTRAL))),
    "qwen2": Architecture(lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**GROUPED))),
    "qwen3": Architecture(lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**GROUPED))),
    "gemma2": Architecture(lambda: t.Gemma2ForCausalLM(t.Gemma2Config(**GROUPED))),
    "gemma3, looking ahead": Architecture(
        lambda: t.Gemma3ForCausalLM(t.Gemma3TextConfig(**GROUPED, use_bidirectional_attention=True)),
        causal=False,
        predicts=False,
    ),
    "gemma3, with pictures": Architecture(_gemma3),
    "llava": Architecture(_llava),
    "qwen2-vl": Architecture(_qwen2_vl),
    "gpt-neox": Architecture(lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**SIZES))),
    "gpt-neo": Architecture(
        lambda: t.GPTNeoForCausalLM(
            t.GPTNeoConfig(vocab_size=VOCABULARY, hidden_size=32, max_position_embeddings=CONTEXT, **_NEO)
        )
    ),
    "gpt-j": Architecture(lambda: t.GPTJForCausalLM(t.GPTJConfig(**GPT, rotary_dim=4))),
    "opt": Architecture(lambda: t.OPTForCausalLM(t.OPTConfig(**_OPT))),
    "bloom": Architecture(
        lambda: t.BloomForCausalLM(t.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4)),
        context=None,
    ),
    "falcon": Architecture(lambda: t.FalconForCausalLM(t.FalconConfig(**SIZES))),
    "mpt": Architecture(lambda: t.MptForCausalLM(t.MptConfig(**_MPT))),
    "mamba": Architecture(lambda: t.MambaForCausalLM(t.MambaConfig(**_SMALL, state_size=4)), context=None),
    "mamba2": Architecture(lambda: t.Mamba2ForCausalLM(t.Mamba2Config(**_SMALL, **_MAMBA2)), context=None),
    "lfm2": Architecture(lambda: t.Lfm2ForCausalLM(t.Lfm2Config(**_LFM))),
    "bert": Architecture(lambda: t.BertForMaskedLM(t.BertConfig(**SIZES)), causal=False, predicts=False),
    "bert, decoder": Architecture(lambda: t.BertLMHeadModel(t.BertConfig(**SIZES, is_decoder=True))),
    "bert, not a decoder": Architecture(lambda: t.BertLMHeadModel(t.BertConfig(**SIZES)), causal=False, predicts=False),
    "roberta": Architecture(
        lambda: t.RobertaForMaskedLM(t.RobertaConfig(**OFFSET, type_vocab_size=1)), causal=False, predicts=False
    ),
    "roberta, decoder": Architecture(lambda: t.RobertaForCausalLM(t.RobertaConfig(**OFFSET, is_decoder=True))),
    "roberta, padding 5": Architecture(
        lambda: t.RobertaModel(t.RobertaConfig(**{**SIZES, "max_position_embeddings": CONTEXT + 6}, pad_token_id=5)),
        causal=False,
        predicts=False,
    ),
    "xlm-roberta": Architecture(
        lambda: t.XLMRobertaForMaskedLM(t.XLMRobertaConfig(**OFFSET)), causal=False, predicts=False
    ),
    "mpnet": Architecture(lambda: t.MPNetForMaskedLM(t.MPNetConfig(**OFFSET)), causal=False, predicts=False),
    "electra": Architecture(
        lambda: t.ElectraForPreTraining(t.ElectraConfig(**SIZES, embedding_size=16)), causal=False, predicts=False
    ),
    "distilbert": Architecture(
        lambda: t.DistilBertForMaskedLM(t.DistilBertConfig(**_DISTIL, max_position_embeddings=CONTEXT)),
        causal=False,
        predicts=False,
    ),
    "albert": Architecture(
        lambda: t.AlbertForMaskedLM(t.AlbertConfig(**SIZES, embedding_size=16)), causal=False, predicts=False
    ),
    "deberta": Architecture(
        lambda: t.DebertaV2ForMaskedLM(t.DebertaV2Config(**_DEBERTA)), causal=False, predicts=False
    ),
    "xlnet": Architecture(
        lambda: t.XLNetLMHeadModel(t.XLNetConfig(vocab_size=VOCABULARY, d_model=32, n_layer=2, n_head=4, d_inner=48)),
        causal=False,
        predicts=False,
        context=None,
    ),
    "t5": Architecture(
        lambda: t.T5ForConditionalGeneration(t.T5Config(**T5, decoder_start_token_id=0)),
        causal=False,
        predicts=False,
        context=None,
        tokens=False,
    ),
    "t5, encoder": Architecture(lambda: t.T5EncoderModel(t.T5Config(**T5)), causal=False, predicts=False, context=None),
    "bart": Architecture(
        lambda: t.BartForConditionalGeneration(t.BartConfig(**BART)), causal=False, predicts=False, tokens=False
    ),
    "bart, decoder": Architecture(lambda: t.BartForCausalLM(t.BartConfig(**BART))),
    "vit": Architecture(
        lambda: t.ViTForImageClassification(t.ViTConfig(**VISION)),
        causal=False,
        predicts=False,
        context=None,
        tokens=False,
    ),
    "wav2vec2": Architecture(
        lambda: t.Wav2Vec2ForCTC(
            t.Wav2Vec2Config(
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                vocab_size=20,
                conv_dim=(8, 8),
                conv_kernel=(10, 3),
                conv_stride=(5, 2),
                num_conv_pos_embeddings=4,
                num_conv_pos_embedding_groups=2,
            )
        ),
        causal=False,
        predicts=False,
        context=None,
        tokens=False,
    ),
}


def made(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """The model of that name with random weights that depend on nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ARCHITECTURES[name].make()
    return model.to(dtype).eval().requires_grad_(False)
