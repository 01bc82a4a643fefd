"""Text in, names as given out: the same vectors as from token ids, with the tokens beside them."""

import inspect

import numpy as np
import pytest
import torch

from polyseme.core.errors import InputError
from polyseme.core.site import Site
from polyseme.corpora import Document, load_windows
from polyseme.networks import Network, load_network, zero_ablate
from polyseme.networks.texts import Texts
from tests import tiny

TEXTS = ["def add(a, b):\n    return a + b\n", "import os"]
SITE = "blocks.2.resid_post"


@pytest.fixture(scope="module")
def pylm():
    return load_network("pylm")


class Given:
    """A corpus of these texts."""

    def __init__(self, texts):
        self.texts, self.fingerprint = texts, ""

    def documents(self):
        return (Document(f"{i}", f"{i}", text) for i, text in enumerate(self.texts))


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_read_as_a_window_of_a_study_is(pylm, text):
    tokens = pylm.tokens(text)
    window = load_windows(Given([text]), pylm.tokenizer, split="train", context=tokens.ids.shape[1], heldout_fraction=0)
    assert tokens.ids.tolist() == window.tokens.tolist()
    assert tokens.counted.tolist() == (~window.special).tolist()
    assert tokens.present.all()
    assert "".join(tokens.texts[0][1:]) == text.replace("\n", "↵")


def test_vectors_are_found_under_the_names_given_their_sites_and_other_names(pylm):
    site = pylm.site("blocks.1.mlp_out")
    reads = pylm.read(TEXTS[0], [SITE, site])
    ids = pylm.tokens(TEXTS[0]).ids
    assert list(reads) == [SITE, site]
    assert torch.equal(reads[SITE], pylm.read(ids, [SITE])[pylm.site(SITE)])
    assert torch.equal(reads[site], reads["blocks.1.mlp_out"])
    assert torch.equal(reads["blocks.2.hook_resid_post"], reads[SITE])
    assert torch.equal(pylm.read(TEXTS[0], SITE)[SITE], reads[SITE])
    assert torch.equal(pylm.run(TEXTS[0], reads=[SITE]).reads[SITE], reads[SITE])
    assert torch.equal(pylm.logits(TEXTS[0]), pylm.logits(ids))
    with pytest.raises(InputError, match=r"blocks\.0\.resid_post was not read"):
        reads["blocks.0.resid_post"]
    assert SITE in reads
    assert "nowhere" not in reads
    assert "blocks.2.resid_post: float32 [1, 14, 224]" in repr(reads)


@pytest.mark.parametrize("ids", [[3, 4, 5], [[3, 4, 5]], np.array([3, 4, 5]), torch.tensor([[3, 4, 5]])], ids=str)
def test_token_ids_come_in_any_form(pylm, ids):
    reads = pylm.read(ids, [SITE])
    assert torch.equal(reads[SITE], pylm.read(torch.tensor([[3, 4, 5]]), [SITE])[SITE])
    assert reads.tokens.ids.tolist() == [[3, 4, 5]]


def test_padding_has_no_vectors_and_changes_none(pylm):
    reads = pylm.read(TEXTS, [SITE])
    tokens = reads.tokens
    assert tokens.present.sum(1).tolist() == [14, 3]
    assert torch.equal(torch.isfinite(reads[SITE]).all(-1), tokens.present)
    torch.testing.assert_close(reads[SITE][1, :3], pylm.read(TEXTS[1], [SITE])[SITE][0], rtol=1e-4, atol=1e-4)
    edited = pylm.read(TEXTS, [SITE], edits={"blocks.1.resid_post": zero_ablate()})
    assert not torch.equal(edited[SITE][1, :3], reads[SITE][1, :3])
    frame = reads.to_pandas()
    assert frame.columns.tolist() == ["text", "position", "id", "token", "counted", SITE]
    assert len(frame) == 17
    norms = reads[SITE][tokens.present].norm(dim=1)
    torch.testing.assert_close(torch.tensor(frame[SITE].tolist()), norms, rtol=1e-5, atol=1e-5)


def test_a_network_that_looks_ahead_does_not_see_padding():
    bert = load_network(tiny.tiny_bert())
    whole = bert._texts.of_ids(torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 0, 0]]))
    whole.present[1, 3:] = False
    vectors = bert.read(whole, ["blocks.1.resid_post"])["blocks.1.resid_post"]
    alone = bert.read([[6, 7, 8]], ["blocks.1.resid_post"])["blocks.1.resid_post"]
    torch.testing.assert_close(vectors[1, :3], alone[0], rtol=1e-4, atol=1e-5)
    assert vectors[1, 3:].isnan().all()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "the text is empty. Where: text 0"),
        (["a", ""], "the text is empty. Where: text 1"),
        ([], "neither text nor token ids"),
        ([[1, 2], [3]], "neither text nor token ids"),
        (["a", 3], "neither text nor token ids"),
        (["x " * 300], "give at most 256 tokens at a time"),
        ([10**9], "this network's vocabulary has 4096"),
    ],
    ids=str,
)
def test_what_is_no_text_is_refused_in_a_sentence(given, said):
    with pytest.raises(InputError, match=said):
        load_network("pylm").read(given, [SITE])


def test_objects_of_other_types_are_refused_in_a_sentence(pylm):
    # Without the tests' own check of types.
    with pytest.raises(InputError, match="type int names no site"):
        inspect.unwrap(Network.site)(pylm, 3)
    with pytest.raises(InputError, match="neither text nor token ids"):
        inspect.unwrap(Texts.tokens)(pylm._texts, None)


def test_bytes_that_are_no_whole_character_are_shown_as_bytes(pylm):
    assert pylm.tokens("é").texts == (("<|bos|>", "⟨c3⟩", "⟨a9⟩"),)


def test_a_network_without_a_tokenizer_says_so():
    with pytest.raises(InputError, match="came without a tokenizer"):
        load_network(tiny.tiny_gpt2()).read("text", [Site(path="transformer.h.0")])
    assert load_network(tiny.tiny_gpt2()).read([1, 2], "embed").tokens.texts == (("⟨1⟩", "⟨2⟩"),)
