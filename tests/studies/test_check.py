"""What a study asks of its network and its sites: refused, or said in one message, before any work."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import polyseme
from polyseme.core.binding import Binding
from polyseme.core.errors import InputError
from polyseme.networks import Network, load_network
from polyseme.studies.check import check_network, check_tokens, study_context, tell_predictions
from polyseme.studies.config import StudyConfig
from polyseme.studies.sites import check_sites
from tests import tiny
from tests.networks.architectures import CONTEXT, made
from tests.studies.small import small_config
from tests.studies.test_study import Told

STUDY = StudyConfig()


def loaded(module: Any, **options: Any) -> Network:
    return load_network(module, tokenizer=tiny.tiny_tokenizer(), **options)


def check(network: Network, *names: str, context: int = 16) -> None:
    sites = {name: network.site(name) for name in names}
    check_sites(STUDY, network, sites, {name: Binding.at(site, name) for name, site in sites.items()}, context)


# The network


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_an_encoder_decoder_is_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(InputError, match=r"is an encoder-decoder.*get_encoder"):
        check_network(STUDY, loaded(made(name)), Told())
    check_network(STUDY, loaded(made("t5, encoder")), Told())


@pytest.mark.parametrize("name", ["vit", "wav2vec2"])
def test_a_network_that_reads_no_text_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="a study reads text"):
        check_network(STUDY, loaded(made(name)), Told())


def test_a_network_that_does_not_run_on_tokens_says_why() -> None:
    with pytest.raises(InputError, match=r"does not run on token ids alone: .*(Long|dtype|addmm)"):
        check_network(STUDY, loaded(nn.Linear(4, 4)), Told())


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gpt2, bare", "its output is not logits"),
        ("llama, reward", "its output is not logits"),
        ("bert", "it sees later tokens"),
        ("llama, looking ahead", "it sees later tokens"),
    ],
)
def test_what_will_not_be_measured_is_said_once(name: str, why: str) -> None:
    told = Told()
    tell_predictions(loaded(made(name)), told)
    (line,) = told.lines
    assert f"does not predict the next token: {why}" in line
    assert "Reconstruction and matches of latents are measured" in line


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"tokens": {"context": 10_000}}, "context of 10000 is longer"),
        ({"sites": ["lm_head"]}, "what the network returns"),
    ],
)
def test_what_cannot_work_is_refused_before_the_long_look_at_predictions(
    small_network: Path, small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, why: str
) -> None:
    def looks_ahead(*_: Any) -> None:
        raise AssertionError("it was measured whether the network looks ahead")

    monkeypatch.setattr("polyseme.networks.measure.looks_ahead", looks_ahead)
    with pytest.raises(InputError, match=why):
        polyseme.study(small_config(small_network, small_corpus, **change), root=tmp_path)


def test_a_vocabulary_that_is_not_the_networks() -> None:
    told, network = Told(), loaded(made("gpt2"))
    check_network(STUDY, network, told)
    assert any("embeds 120" in line for line in told.lines)
    check_tokens(network, 119, "here")
    with pytest.raises(InputError, match=r"the token 120 .* ids below 120.*tokenizer that belongs"):
        check_tokens(network, 120, "here")


@pytest.mark.parametrize("name", ["roberta", "roberta, padding 5", "xlm-roberta", "mpnet", "opt", "bart, decoder"])
def test_the_context_is_what_runs(name: str) -> None:
    network = loaded(made(name))
    assert study_context(STUDY, network) == CONTEXT
    longer = STUDY.model_copy(update={"tokens": STUDY.tokens.model_copy(update={"context": CONTEXT + 1})})
    with pytest.raises(InputError, match=f"longer than the network's {CONTEXT}"):
        study_context(longer, network)


class Positions(nn.Module):
    """Positions are rows of a parameter, so that only a pass shows how many there are."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(300, 8), nn.Parameter(torch.zeros(12, 8))
        self.block, self.head = nn.Linear(8, 8), nn.Linear(8, 300)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.block(self.embed(tokens) + self.place[: tokens.shape[1]]))


def test_a_context_that_nothing_declares_is_found_by_running() -> None:
    network = loaded(Positions())
    assert network.context is None
    assert study_context(STUDY, network) == 12
    longer = STUDY.model_copy(update={"tokens": STUDY.tokens.model_copy(update={"context": 13})})
    with pytest.raises(InputError, match=r"windows of 13 tokens: .*set it to 12"):
        study_context(longer, network)


# Sites


def test_one_place_under_two_names_is_refused() -> None:
    network = loaded(tiny.tiny_gpt2())
    with pytest.raises(InputError, match=r"one place twice: 'blocks\.0\.resid_post' and 'transformer\.h\.0\.out'"):
        check(network, "blocks.0.resid_post", "transformer.h.0.out")
    with pytest.raises(InputError, match="one place twice"):
        check(network, "blocks.0.hook_resid_post", "blocks.1.mlp_out", "transformer.h.0")
    check(network, "blocks.0.attn.z", "blocks.0.attn.head.1", "blocks.0.resid_post", "blocks.1.resid_pre")


@pytest.mark.parametrize(
    ("model", "site", "why"),
    [
        ("gpt2", "lm_head.out", "what the network returns"),
        ("bert", "cls", "what the network returns"),
        ("bert", "cls.predictions.decoder", "what the network returns"),
        ("gpt2", "transformer.wte.in", "int64"),
        ("gpt2", "transformer.wpe.out", "not one vector a token"),
        ("bert", "bert.embeddings.LayerNorm.out", None),
        ("gpt2", "final_norm", None),
        ("gpt2", "lm_head.in", None),
        ("llama", "model.rotary_emb", "not one vector a token"),
    ],
)
def test_a_site_that_cannot_be_studied_is_refused(model: str, site: str, why: str | None) -> None:
    network = loaded(getattr(tiny, f"tiny_{model}")())
    if why is None:
        check(network, site)
        return
    with pytest.raises(InputError, match=f"{site}.*{why}.*polyseme sites"):
        check(network, site)


def test_places_that_are_not_reached_or_reached_twice() -> None:
    network = loaded(made("albert"))
    with pytest.raises(InputError, match="called 2 times"):
        check(network, "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn")
    pictures = loaded(made("llava"))
    with pytest.raises(InputError, match="does not reach it"):
        check(pictures, "model.vision_tower.encoder.layers.0")


class Convolved(nn.Module):
    """A convolution over positions, which gives [batch, channel, position]."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.embed, self.conv = nn.Embedding(300, 16), nn.Conv1d(16, 16, 3, padding=padding)
        self.head = nn.Linear(16, 300)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.conv(self.embed(tokens).mT)[..., : tokens.shape[1]].mT
        return self.head(x)


def test_a_width_equal_to_the_context_is_not_taken_for_positions() -> None:
    network = loaded(Convolved(padding=1))
    check(network, "conv", context=16)
    tokens = torch.randint(300, (3, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        channels = network.module.conv(network.module.embed(tokens).mT)
    assert torch.equal(network.read(tokens, ["conv"])[network.site("conv")], channels.mT)
    with pytest.raises(InputError, match=r"\[2, 9, 16\] for tokens \[2, 7\]: not one vector a token"):
        check(loaded(Convolved(padding=2)), "conv", context=16)


def test_vectors_that_are_not_finite_are_refused() -> None:
    model = tiny.tiny_gpt2()
    model.transformer.h[1].mlp.c_proj.bias[0] = torch.inf
    with pytest.raises(InputError, match=r"not finite.*Fix: check the numbers in its config\.json.*weights"):
        check(loaded(model), "blocks.1.resid_post")
    # Below the broken block the vectors are finite, and the predictions are not.
    with pytest.raises(InputError, match=r"output is not finite.*Fix: check the numbers in its config\.json"):
        check(loaded(model), "blocks.0.resid_post")


def test_names_that_no_file_can_have() -> None:
    module = Positions()
    module.add_module("a b", nn.Identity())
    module.add_module("a-b", nn.Identity())
    module.add_module("x" * 300, nn.Identity())
    network = loaded(module)
    with pytest.raises(InputError, match="same file names as 'a b'"):
        check(network, "a b", "a-b")
    with pytest.raises(InputError, match="too long"):
        check(network, "x" * 300)


# Whole studies


def _save(name: str, folder: Path) -> Path:
    made(name).save_pretrained(folder)
    from tests.networks.tokenizers import small_tokenizer

    small_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "site", "predicts"),
    [
        ("llama, reward", "blocks.1.resid_post", False),
        ("roberta", "roberta.encoder.layer.1", False),
        ("gemma3, with pictures", "blocks.1.resid_post", True),
    ],
)
def test_a_study_measures_what_can_be_measured(
    name: str, site: str, predicts: bool, small_corpus: Path, tmp_path: Path
) -> None:
    network = _save(name, tmp_path / "network")
    tokens = {"train": 1500, "heldout": 600, "splice": 200, "heldout_fraction": 0.4}
    config = small_config(network, small_corpus, sites=[site], tokens=tokens, controls=[{"kind": "shuffled_tokens"}])
    result = polyseme.study(config, root=tmp_path / "runs")
    own = {r.name: r.value for r in result.run.metrics if r.scope.get("study") == "trained"}
    assert own["fvu"] == own["fvu"]
    assert (own["ce_clean"] == own["ce_clean"]) == predicts
    assert sum(result.verdict_counts.values()) == 32


def test_bad_sites_stop_a_study_before_any_work(small_network: Path, small_corpus: Path, tmp_path: Path) -> None:
    for sites in (["blocks.0.resid_post", "transformer.h.0.out"], ["lm_head.out"], ["transformer.wpe"]):
        with pytest.raises(InputError):
            polyseme.study(small_config(small_network, small_corpus, sites=sites), root=tmp_path)
    assert not list(tmp_path.glob("objects/*"))
