"""A tokenizer's fingerprint changes with what it reads, and with nothing else."""

from polyseme.studies.stages.tokens import tokenizer_fingerprint
from tests.corpora.tokenizers import byte_bpe


def test_reading_leaves_the_fingerprint_as_it_is():
    tokenizer = byte_bpe()
    plain = tokenizer_fingerprint(tokenizer)
    tokenizer.backend_tokenizer.enable_truncation(max_length=4)
    tokenizer.backend_tokenizer.enable_padding(length=64)
    assert tokenizer_fingerprint(tokenizer) == plain
    assert tokenizer.backend_tokenizer.truncation is not None  # nothing was changed by asking
    tokenizer(["a"], padding=False, truncation=False)
    assert tokenizer_fingerprint(tokenizer) == plain


def test_what_decides_the_tokens_decides_the_fingerprint():
    other = byte_bpe()
    other.chat_template = "{{ messages }}"
    roles = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    tokenizers = (byte_bpe(), other, byte_bpe(**roles), byte_bpe(**roles, add_bos_token=False))
    prints = [tokenizer_fingerprint(tokenizer) for tokenizer in tokenizers]
    assert len(set(prints)) == len(prints)
