"""A tokenizer as small as the vocabularies of `tests.networks.architectures`."""

from transformers import PreTrainedTokenizerFast

from tests.networks.architectures import VOCABULARY


def small_tokenizer() -> PreTrainedTokenizerFast:
    """Lower-case letters, digits and signs, each a token; what it does not know is `<unk>`."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    signs = [chr(code) for code in range(33, 127)]
    entries = ["<s>", "<pad>", "<unk>", "\n", " ", *signs]
    vocabulary = {entry: i for i, entry in enumerate(entries)}
    assert len(vocabulary) <= VOCABULARY
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", unk_token="<unk>", eos_token="<s>"
    )
