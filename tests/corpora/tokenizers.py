"""Tokenizers of every kind, small, each with the special tokens of its family."""

from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "the river stone and the paper lamp, under a calm tower.\nsalt! and 3.14 quick apples? yes.\n",
    "    def f(x):\n\treturn x[0] + 1  # a comment: it's naïve\n",
    "seven windows bring wheat; silver engines (1999) hum.\r\n\r\n日本 ok",
]
MARKERS = ("<|im_start|>", "<|im_end|>")


def _fast(backend: Tokenizer, **names: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def byte_bpe(**names: Any) -> PreTrainedTokenizerFast:
    """GPT-2's kind: every byte is in the alphabet; BOS and EOS are one token."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<|endoftext|>", *MARKERS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    names = names or {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    return _fast(backend, **names, additional_special_tokens=list(MARKERS))


def sentencepiece_bpe() -> PreTrainedTokenizerFast:
    """Llama's kind: ▁ for spaces, bytes for what the vocabulary lacks, BOS by its own rule."""
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁"]
    vocabulary += sorted(set("".join(TEXTS)) - set(" \n\t\r日本ï"))
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("e", "r")]
    vocabulary += [a + b for a, b in merges]
    backend = Tokenizer(
        models.BPE(
            {t: i for i, t in enumerate(dict.fromkeys(vocabulary))},
            merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in MARKERS])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _fast(backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def unigram() -> PreTrainedTokenizerFast:
    """T5's kind: no BOS, EOS closes a text by the tokenizer's own rule."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120,
        special_tokens=["<pad>", "</s>", "<unk>", *MARKERS],
        unk_token="<unk>",
        show_progress=False,
        initial_alphabet=sorted(set("".join(TEXTS)) - set("日本ï")),
    )
    backend.train_from_iterator(TEXTS * 20, trainer)
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return _fast(backend, eos_token="</s>", unk_token="<unk>", pad_token="<pad>")


def wordpiece() -> PreTrainedTokenizerFast:
    """BERT's kind: CLS and SEP, ## for the continuation of a word."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *MARKERS]
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=names, show_progress=False)
    backend.train_from_iterator(TEXTS * 20, trainer)
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    roles = {f"{n.strip('[]').lower()}_token": n for n in names[:5]}
    return _fast(backend, **roles)


def words() -> PreTrainedTokenizerFast:
    """Whole words between spaces, with a token for unknown ones and nothing else."""
    vocabulary = {w: i for i, w in enumerate(["<unk>", *" ".join(TEXTS).split()])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _fast(backend, unk_token="<unk>")


def characters() -> PreTrainedTokenizerFast:
    """One token a character."""
    alphabet = ["<bos>", "<pad>", *sorted(set("".join(TEXTS)))]
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(["<bos>", "<pad>"])
    return _fast(backend, bos_token="<bos>", pad_token="<pad>")


KINDS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte_bpe": byte_bpe,
    "sentencepiece_bpe": sentencepiece_bpe,
    "unigram": unigram,
    "wordpiece": wordpiece,
    "words": words,
    "characters": characters,
}
