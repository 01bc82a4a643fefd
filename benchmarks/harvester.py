"""One library's harvest, a round a word: run by `workers.py` in the interpreter that has the library.

    python harvester.py SPEC.json

On "step" the library reads the next windows, from tokens to vectors of one site as rows `[token, d]`, and the answer is
how many milliseconds that took. Everything is the library's own code in the setting the spec names.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import torch
from told import told
from torch import Tensor, nn


@dataclass
class Spec:
    """What to harvest.

    Attributes:
        library: a name in `LIBRARIES`.
        network: folder of a GPT-2 in the Hugging Face layout.
        tokens: a `.npy` file of token ids, `[window, context]`.
        after: the block whose output is read.
        windows: read a round.
        batch: windows a pass; None leaves it to the library.
        dtype: the network computes in.
        setting: as the library's function says.
        threads: of torch.
    """

    library: str
    network: str
    tokens: str
    after: int
    windows: int
    batch: int | None = None
    dtype: str = "float32"
    setting: str = ""
    threads: int = 2

    def batches(self, size: int) -> Iterator[Tensor]:
        """The windows round and round, `size` at a time."""
        tokens = torch.from_numpy(np.load(self.tokens))
        return cycle(tokens.split(size))


Round = Callable[[], int]
"""Harvests one round; returns how many vectors came out."""


def _products(spec: Spec) -> Round:
    """The products of the blocks' weights alone: no attention, no norms, no GELU. Settings: `onednn`, or mm."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(spec.network)
    d, rows = config.n_embd, spec.batch * config.n_positions
    dtype = getattr(torch, spec.dtype)
    shapes = [(d, 3 * d), (d, d), (d, 4 * d), (4 * d, d)]
    x = {width: torch.randn(rows, width, dtype=dtype) for width in (d, 4 * d)}
    weights = [[torch.randn(out, wide, dtype=dtype) for wide, out in shapes] for _ in range(spec.after + 1)]
    outs = {out: torch.empty(rows, out, dtype=dtype) for _, out in shapes}
    onednn = torch.ops.mkldnn._linear_pointwise

    @torch.inference_mode()
    def go() -> int:
        for _ in range(spec.windows // spec.batch):
            for block in weights:
                for (wide, out), weight in zip(shapes, block, strict=True):
                    if spec.setting == "onednn":
                        onednn(x[wide], weight, None, "none", [], "")
                    else:
                        torch.mm(x[wide], weight.t(), out=outs[out])
        return spec.windows * config.n_positions

    return go


def _transformers(spec: Spec) -> Round:
    """A hook on the block that stops the pass, sdpa, inference mode."""
    from transformers import AutoModelForCausalLM

    class StopPass(Exception):  # noqa: N818  it ends a pass and is no error
        pass

    model: Any = AutoModelForCausalLM.from_pretrained(
        spec.network, dtype=getattr(torch, spec.dtype), attn_implementation="sdpa"
    ).eval()
    seen: list[Tensor] = []

    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        seen.append((output if isinstance(output, Tensor) else output[0]).flatten(0, 1))
        raise StopPass

    model.transformer.h[spec.after].register_forward_hook(hook)
    batches = spec.batches(spec.batch)

    @torch.inference_mode()
    def go() -> int:
        seen.clear()
        for _ in range(spec.windows // spec.batch):
            try:
                model(next(batches), use_cache=False)
            except StopPass:
                continue
        return sum(map(len, seen))

    return go


def _polyseme(spec: Spec) -> Round:
    """The whole source: windows in random order, vectors shuffled over a block, batches of 4096. Settings: `fused`,
    `prefetch`."""
    from polyseme.activations import HarvestConfig, LiveSource
    from polyseme.corpora.pack import Windows
    from polyseme.networks import load_network

    linear = "fused" if "fused" in spec.setting else "plain"
    network = load_network(spec.network, dtype=spec.dtype, device="cpu", linear=linear)
    tokens = np.load(spec.tokens)
    nothing = np.zeros_like(tokens)
    windows = Windows(tokens, nothing, nothing.astype(bool), ("random",), np.ones(1, dtype=np.int64))
    per_round = spec.windows * tokens.shape[1]
    config = HarvestConfig(block_tokens=per_round, batch_windows=spec.batch, prefetch="prefetch" in spec.setting)
    size = min(4096, per_round)
    source = LiveSource(network, windows, {"site": network.site(f"blocks.{spec.after}.resid_post")}, config)
    batches = source.batches(size)
    return lambda: sum(len(next(batches).acts["site"]) for _ in range(per_round // size))


def _hooked(spec: Spec) -> Any:
    """A TransformerLens network of the same shape, its weights random too."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(spec.network)
    return HookedTransformer(
        HookedTransformerConfig(
            n_layers=config.n_layer,
            d_model=config.n_embd,
            n_ctx=config.n_positions,
            d_head=config.n_embd // config.n_head,
            n_heads=config.n_head,
            d_vocab=config.vocab_size,
            act_fn=config.activation_function,
            normalization_type="LN",
            default_prepend_bos=False,
            dtype=getattr(torch, spec.dtype),
            device="cpu",
            seed=0,
        )
    )


def _transformer_lens(spec: Spec) -> Round:
    """`run_with_cache` with one hook name and `stop_at_layer`."""
    model, batches = _hooked(spec), spec.batches(spec.batch)
    name = f"blocks.{spec.after}.hook_resid_post"

    @torch.inference_mode()
    def go() -> int:
        rows = 0
        for _ in range(spec.windows // spec.batch):
            cache = model.run_with_cache(next(batches), names_filter=[name], stop_at_layer=spec.after + 1)[1]
            rows += len(cache[name].flatten(0, 1))
        return rows

    return go


def _sae_lens(spec: Spec) -> Round:
    """Its store up to the shuffling buffer, which is left out. Settings: `autocast` to bfloat16, `hf` for the Hugging
    Face module in the place of TransformerLens's."""
    from datasets import Dataset
    from sae_lens import ActivationsStore

    name = f"blocks.{spec.after}.hook_resid_post"
    if "hf" in spec.setting:
        from sae_lens.load_model import HookedProxyLM
        from transformers import AutoModelForCausalLM

        name = f"transformer.h.{spec.after}"
        module = AutoModelForCausalLM.from_pretrained(spec.network, dtype=getattr(torch, spec.dtype)).eval()
        model: Any = HookedProxyLM(module, None, hook_names=[name])
    else:
        model = _hooked(spec)
    tokens = np.load(spec.tokens)
    store = ActivationsStore(
        model=model,
        dataset=Dataset.from_dict({"tokens": tokens.tolist()}),
        streaming=False,
        hook_name=name,
        hook_head_index=None,
        context_size=tokens.shape[1],
        d_in=model.cfg.d_model if "hf" not in spec.setting else model.model.config.n_embd,
        n_batches_in_buffer=8,
        total_training_tokens=tokens.size,
        store_batch_size_prompts=spec.batch,
        train_batch_size_tokens=4096,
        prepend_bos=False,
        normalize_activations="none",
        device=torch.device("cpu"),
        dtype=spec.dtype,
        autocast_lm="autocast" in spec.setting,
    )
    return lambda: sum(len(store.get_filtered_llm_batch()) for _ in range(spec.windows // spec.batch))


LIBRARIES: dict[str, Callable[[Spec], Round]] = {
    "products": _products,
    "transformers": _transformers,
    "polyseme": _polyseme,
    "transformer-lens": _transformer_lens,
    "sae-lens": _sae_lens,
}


def main() -> None:
    """Harvest as told, one round a word."""
    spec, talk = told(Spec)
    expected = spec.windows * np.load(spec.tokens, mmap_mode="r").shape[1]
    go = LIBRARIES[spec.library](spec)
    while sys.stdin.readline().strip() == "step":
        begun = time.perf_counter()
        rows = go()
        ms = 1e3 * (time.perf_counter() - begun)
        assert rows == expected, f"{rows} vectors where {expected} were asked for"
        talk.write(json.dumps({"ms": ms}) + "\n")
        talk.flush()


if __name__ == "__main__":
    main()
