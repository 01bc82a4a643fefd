"""Train `pylm`, the language model polyseme ships, and the ladder of sizes its compute-equivalent is read off.

    python scripts/train_pylm.py tokenizer --out runs/pylm
    python scripts/train_pylm.py train --size 3.4m --out runs/pylm      # every size of the ladder in turn
    python scripts/train_pylm.py publish --out runs/pylm              # into src/polyseme/networks/pylm

Every size sees the same tokens in the same order under the same recipe; only the shape differs. A killed run goes
on from its last checkpoint.
"""

import json
import lzma
import math
import os
import platform
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import transformers
import tyro
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy, linear

from polyseme.corpora.document import split_of
from polyseme.corpora.pack import Windows, pack
from polyseme.corpora.stdlib import StdlibCorpusConfig

BOS = "<|bos|>"
HELDOUT = 0.1
CONTEXT = 256
SHIPPED: "Size" = "3.4m"
Size = Literal["50k", "160k", "400k", "1.4m", "3.4m"]


@dataclass(frozen=True)
class Shape:
    n_layer: int
    n_embd: int
    n_head: int


SHAPES: dict[Size, Shape] = {
    "50k": Shape(1, 12, 1),
    "160k": Shape(2, 32, 2),
    "400k": Shape(3, 64, 2),
    "1.4m": Shape(4, 128, 4),
    "3.4m": Shape(4, 224, 7),
}


@dataclass(frozen=True)
class Recipe:
    """What every size of the ladder has in common."""

    vocab: int = 4096
    context: int = CONTEXT
    batch: int = 16
    steps: int = 1800
    warmup: int = 150
    lr: float = 3.0e-3
    final_lr: float = 1.0e-4
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    seed: int = 0


def documents(split: str) -> list[tuple[str, str]]:
    corpus = StdlibCorpusConfig().build()
    return [(d.name, d.text) for d in corpus.documents() if split_of(d.key, HELDOUT) == split]


def train_tokenizer(out: Path, recipe: Recipe) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for _, text in documents("train")), trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=BOS, model_max_length=recipe.context
    )
    fast.save_pretrained(out / "tokenizer")


def windows(out: Path, split: str) -> Windows:
    cache = out / f"{split}.npz"
    if cache.exists():
        with np.load(cache, allow_pickle=False) as saved:
            return Windows(**{k: tuple(saved[k].tolist()) if k == "names" else saved[k] for k in saved.files})
    tokenizer = transformers.AutoTokenizer.from_pretrained(out / "tokenizer")

    def encode(texts: list[str]) -> list[list[int]]:
        return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]

    packed = pack(documents(split), encode, context=CONTEXT, prefix=tokenizer.bos_token_id)
    np.savez(cache, **{k: np.array(v) for k, v in vars(packed).items()})
    return packed


def build(shape: Shape, recipe: Recipe) -> transformers.GPT2LMHeadModel:
    config = transformers.GPT2Config(
        vocab_size=recipe.vocab,
        n_positions=recipe.context,
        n_ctx=recipe.context,
        **asdict(shape),
        activation_function="gelu_pytorch_tanh",  # the fused form of GPT-2's own GELU
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(recipe.seed)
    model = transformers.GPT2LMHeadModel(config)
    model.set_attn_implementation("sdpa")
    return model


def loss_of(model: transformers.GPT2LMHeadModel, tokens: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Summed next-token cross-entropy (nats) over the targets that are neither special nor padding."""
    hidden = model.transformer(input_ids=tokens[:, :-1]).last_hidden_state
    keep = counted[:, 1:]
    logits = linear(hidden[keep], model.lm_head.weight)
    return cross_entropy(logits.float(), tokens[:, 1:][keep], reduction="sum")


@torch.no_grad()
def heldout_ce(model: transformers.GPT2LMHeadModel, held: Windows) -> tuple[float, int]:
    """Held-out nats per token and the number of tokens predicted (fp32)."""
    tokens, counted = torch.from_numpy(held.tokens).long(), torch.from_numpy(~held.special)
    total = sum(loss_of(model, t, c).item() for t, c in zip(tokens.split(16), counted.split(16), strict=True))
    return total / int(counted[:, 1:].sum()), int(counted[:, 1:].sum())


def learning_rate(step: int, recipe: Recipe) -> float:
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.final_lr + (recipe.lr - recipe.final_lr) * 0.5 * (1 + math.cos(math.pi * done))


def train(out: Path, size: Size, recipe: Recipe) -> None:
    folder = out / size
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "result.json").exists():
        print(f"{size}: done already", flush=True)
        return
    data, held = windows(out, "train"), windows(out, "heldout")
    tokens, counted = torch.from_numpy(data.tokens).long(), torch.from_numpy(~data.special)
    model = build(SHAPES[size], recipe)
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        betas=recipe.betas,
        fused=True,
    )
    step, log = 0, []
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        step, log = state["step"], state["log"]
        print(f"{size}: going on from step {step}", flush=True)
    started, first = time.perf_counter(), step
    epochs: dict[int, np.ndarray] = {}
    while step < recipe.steps:
        at = step * recipe.batch
        index = []
        for j in range(at, at + recipe.batch):  # the order is a pure function of seed and step
            epoch, row = divmod(j, len(data))
            if epoch not in epochs:
                epochs = {epoch: np.random.default_rng([recipe.seed, epoch]).permutation(len(data))}
            index.append(int(epochs[epoch][row]))
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, recipe)
        batch, keep = tokens[index], counted[index]
        loss = loss_of(model, batch, keep) / int(keep[:, 1:].sum())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimiser.step()
        step += 1
        if step % 25 == 0:
            rate = (step - first) * recipe.batch * recipe.context / (time.perf_counter() - started)
            log.append([step, round(loss.item(), 4)])
            print(f"{size} {step}/{recipe.steps} loss {loss.item():.3f} {rate:,.0f} tokens/s", flush=True)
        if step % 200 == 0:
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step, "log": log}
            torch.save(state, folder / "checkpoint.tmp")
            os.replace(folder / "checkpoint.tmp", checkpoint)
    for parameter in model.parameters():  # the shipped precision is the measured precision
        parameter.data = parameter.data.half().float()
    ce, n = heldout_ce(model, held)
    n_bytes = int(held.n_bytes.sum())
    n_all = held.n_tokens
    packed = lzma.compress(b"".join(t.encode() for _, t in documents("heldout")), preset=9 | lzma.PRESET_EXTREME)
    result = {
        "size": size,
        "shape": asdict(SHAPES[size]),
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "n_non_embedding": sum(p.numel() for p in model.transformer.h.parameters()),
        "train_tokens": recipe.steps * recipe.batch * recipe.context,
        "heldout_ce_nats_per_token": ce,
        "heldout_tokens": n,
        "heldout_bits_per_byte": ce * n_all / math.log(2) / n_bytes,
        "xz_bits_per_byte": 8 * len(packed) / n_bytes,
        "recipe": asdict(recipe),
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "loss": log,
    }
    state = {k: v.half().contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.torch_dtype = "float16"
    model.config.save_pretrained(folder)
    (folder / "result.json").write_text(json.dumps(result, indent=1))
    print(json.dumps({k: v for k, v in result.items() if k not in {"loss", "recipe"}}), flush=True)


def publish(out: Path) -> None:
    """Copy the shipped size and the ladder's figures into the package."""
    target = Path(__file__).parents[1] / "src" / "polyseme" / "networks" / "pylm"
    target.mkdir(exist_ok=True)
    shutil.copy(out / SHIPPED / "model.safetensors", target)
    shutil.copy(out / SHIPPED / "config.json", target)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(out / "tokenizer" / name, target)
    rungs = [json.loads((out / s / "result.json").read_text()) for s in SHAPES if (out / s / "result.json").exists()]
    kept = ("size", "shape", "n_parameters", "n_non_embedding", "train_tokens", "heldout_tokens")
    figures = ("heldout_ce_nats_per_token", "heldout_bits_per_byte")
    ladder = {
        "corpus": "python standard library",
        "python": rungs[-1]["python"],
        "recipe": rungs[-1]["recipe"],
        "xz_bits_per_byte": rungs[-1]["xz_bits_per_byte"],
        "rungs": [{k: r[k] for k in kept + figures} for r in rungs],
    }
    (target / "ladder.json").write_text(json.dumps(ladder, indent=1) + "\n")


def main(
    action: Annotated[Literal["tokenizer", "train", "publish"], tyro.conf.Positional],
    out: Path = Path("runs/pylm"),
    size: Size = SHIPPED,
    steps: int = Recipe.steps,
    threads: int = 1,
) -> None:
    torch.set_num_threads(threads)
    recipe = Recipe(steps=steps)
    out.mkdir(parents=True, exist_ok=True)
    if action == "tokenizer":
        train_tokenizer(out, recipe)
    elif action == "train":
        train(out, size, recipe)
    else:
        publish(out)


if __name__ == "__main__":
    tyro.cli(main)
