"""Ablating and steering a latent, against their formulas; and the texts that come of it."""

import inspect

import numpy as np
import pytest
import torch

import polyseme
from polyseme.core.errors import InputError
from polyseme.dictionaries import TopKConfig
from polyseme.networks import load_network

SITE = "blocks.2.resid_post"
TEXT = "import os\nimport"


@pytest.fixture(scope="module")
def pylm():
    return load_network("pylm")


@pytest.fixture(scope="module")
def dictionary():
    return TopKConfig(n_latents=64, k=4).build(224, seed=0)


@pytest.fixture(scope="module")
def active(pylm, dictionary):
    """The vectors of the text, their latents, and a latent that is active at some of them and not at all."""
    x = pylm.read(TEXT, [SITE])[SITE]
    z = dictionary.encode(x).dense()
    share = (z > 0).double().mean((0, 1))
    return x, z, int(((share > 0) & (share < 1)).nonzero()[0])


def test_ablating_takes_the_latents_part_out(dictionary, active):
    x, z, latent = active
    d = dictionary.write_directions()
    edited = polyseme.ablate(dictionary, latent)(x.clone())
    torch.testing.assert_close(edited, x - z[..., latent, None] * d[latent])
    assert torch.equal(edited[z[..., latent] == 0], x[z[..., latent] == 0])
    assert not torch.equal(edited, x)
    several = [latent, (latent + 1) % 64, (latent + 2) % 64]
    torch.testing.assert_close(polyseme.ablate(dictionary, several)(x.clone()), x - z[..., several] @ d[several])
    for form in (tuple(several), np.array(several), torch.tensor(several)):
        assert torch.equal(
            polyseme.ablate(dictionary, form)(x.clone()), polyseme.ablate(dictionary, several)(x.clone())
        )
    everything = polyseme.ablate(dictionary, list(range(64)))(x.clone())
    bias = dictionary.decode(dictionary.encode(x)) - z @ d
    torch.testing.assert_close(everything - bias, x - dictionary.reconstruct(x), rtol=1e-4, atol=1e-4)


def test_steering_adds_the_direction(dictionary, active):
    x, _, latent = active
    d = dictionary.write_directions()[latent]
    torch.testing.assert_close(polyseme.steer(dictionary, latent, -2.5)(x.clone()), x - 2.5 * d)
    half = x.bfloat16()
    assert polyseme.steer(dictionary, latent, 1.0)(half).dtype == torch.bfloat16
    assert polyseme.ablate(dictionary, latent)(half).dtype == torch.bfloat16


def test_only_the_positions_given_are_edited(dictionary, active):
    x, _, latent = active
    positions = torch.zeros(x.shape[:2], dtype=torch.bool)
    positions[0, 2] = True
    for make in (
        lambda **more: polyseme.ablate(dictionary, list(range(64)), **more),
        lambda **more: polyseme.steer(dictionary, latent, 5.0, **more),
    ):
        somewhere = make(positions=positions)(x.clone())
        assert torch.equal(somewhere[~positions], x[~positions])
        assert torch.equal(somewhere[positions], make()(x.clone())[positions])
        assert not torch.equal(somewhere, x)


def test_a_transcoder_is_ablated_by_what_it_reads(pylm):
    reads, writes = pylm.site("blocks.2.mlp_in"), pylm.site("blocks.2.mlp_out")
    transcoder = TopKConfig(n_latents=64, k=4).build(224, 224, seed=0)
    with pytest.raises(InputError, match="reads=network"):
        polyseme.ablate(transcoder, 3)
    values = pylm.read(TEXT, [reads, writes])
    z = transcoder.encode(values[reads]).dense()
    latent = int(z.amax((0, 1)).argmax())
    edit = polyseme.ablate(transcoder, latent, reads=reads)
    after = pylm.run(TEXT, edits={writes: edit}, reads=["blocks.2.resid_post"]).reads["blocks.2.resid_post"]
    clean = pylm.read(TEXT, ["blocks.2.resid_post"])["blocks.2.resid_post"]
    expected = clean - z[..., latent, None] * transcoder.write_directions()[latent]
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(after, clean)


@pytest.mark.parametrize("latent", [64, -1, 1.5, "17", True, None])
def test_a_wrong_latent_is_refused_in_a_sentence(dictionary, latent):
    for act in (polyseme.ablate.__wrapped__, lambda d, i: polyseme.steer.__wrapped__(d, i, 1.0)):
        with pytest.raises(InputError, match="latents are 0 to 63"):
            act(dictionary, latent)


def test_both_networks_continue_one_prompt(pylm, dictionary):
    same = polyseme.continue_text(pylm, TEXT, {}, n_tokens=6)
    assert same.clean == same.edited
    assert same.diverges_at is None
    assert same.agreement == 1
    assert len(same.clean_ids) == 6
    tokens = pylm.tokens(TEXT).ids
    for token in same.clean_ids:
        assert token == int(pylm.logits(tokens)[0, -1].argmax())
        tokens = torch.cat([tokens, torch.tensor([[token]])], 1)
    edits = {SITE: polyseme.steer(dictionary, 17, 200.0)}
    other = polyseme.continue_text(pylm, TEXT, edits, n_tokens=6)
    assert other.clean == same.clean
    assert other.diverges_at == 0
    tokens = pylm.tokens(TEXT)
    at = {pylm.site(SITE): polyseme.steer(dictionary, 17, 200.0, positions=tokens.counted)}
    assert other.edited_ids[0] == int(pylm.run(tokens, edits=at).logits[0, -1].argmax())


def test_a_hostile_text_reaches_the_page_as_characters(pylm):
    shown = polyseme.continue_text(pylm, "</bdi><script>alert(1)</script>\x1b[31m\u202e", {}, n_tokens=2)
    page = shown._repr_html_()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "\x1b" not in page + repr(shown)
    assert "\u202e" not in page + repr(shown)


def test_what_cannot_be_continued_is_refused_in_a_sentence(pylm, dictionary):
    with pytest.raises(InputError, match="one text is continued at a time, not 2"):
        polyseme.continue_text(pylm, pylm.tokens(["a", "b"]), {})
    with pytest.raises(InputError, match="write at most 253"):
        polyseme.continue_text(pylm, "import os", {}, n_tokens=300)
    with pytest.raises(InputError, match=r"no site 'blocks\.9'"):
        polyseme.continue_text(pylm, "import os", {"blocks.9": polyseme.steer(dictionary, 1, 1.0)})
    plain = inspect.unwrap(polyseme.continue_text)  # without the tests' check of types
    for edits, said in ((None, "which site"), ([1], "which site"), ({SITE: 3}, "type int is no edit")):
        with pytest.raises(InputError, match=said):
            plain(pylm, "import os", edits)
    for more, said in ({"n_tokens": 0}, "greater than or equal to 1"), ({"temperature": -1.0}, "equal to 0"):
        with pytest.raises(InputError, match=said):
            polyseme.continue_text(pylm, "import os", {}, **more)
    for amount in ("a", float("nan"), None):
        with pytest.raises(InputError, match="is no number"):
            inspect.unwrap(polyseme.steer)(dictionary, 1, amount)
    narrow = TopKConfig(n_latents=8, k=2).build(16, seed=0)
    for edit in (polyseme.steer(narrow, 1, 1.0), polyseme.ablate(narrow, 1)):
        with pytest.raises(InputError, match="16"):
            polyseme.continue_text(pylm, "import os", {SITE: edit})
