"""Train `pylm`, the language model polyseme ships, and the ladder of sizes its compute-equivalent is read off.

    python scripts/train_pylm.py tokenizer --out runs/pylm
    python scripts/train_pylm.py train --size 3.4m --out runs/pylm      # every size of the ladder in turn
    python scripts/train_pylm.py measure --size 3.4m --out runs/pylm    # held-out figures again, from the weights
    python scripts/train_pylm.py publish --out runs/pylm                # into src/polyseme/networks/pylm

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
from safetensors.torch import load_file, save_file
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
    """What every size of the ladder has in common.

    Muon for the blocks' matrices and AdamW for the rest, at one learning rate, which rises over `warmup` steps, stays,
    and falls in a straight line to 0 over the last `decay` of the steps.
    """

    vocab: int = 4096
    context: int = CONTEXT
    batch: int = 16
    steps: int = 3600
    warmup: int = 100
    decay: float = 0.7
    lr: float = 3.0e-3
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
    whole = cache.with_suffix(".new.npz")  # an interrupt while it is written leaves no half of it under its name
    np.savez(whole, **{k: np.array(v) for k, v in vars(packed).items()})
    os.replace(whole, cache)
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
def mean_ce(model: transformers.GPT2LMHeadModel, tokens: torch.Tensor, wanted: torch.Tensor) -> float:
    """Nats per wanted token (fp32)."""
    total = sum(loss_of(model, t, w).item() for t, w in zip(tokens.split(16), wanted.split(16), strict=True))
    return total / int(wanted[:, 1:].sum())


def learning_rate(step: int, recipe: Recipe) -> float:
    rising = (step + 1) / recipe.warmup
    falling = (recipe.steps - step) / (recipe.decay * recipe.steps)
    return recipe.lr * min(1.0, rising, falling)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised: every matrix moves by the nearest semi-orthogonal matrix to its Nesterov momentum.

    The iteration and its coefficients are Jordan et al.'s (2024, "Muon"), the factor 0.2 sqrt(longer side), which gives
    the update AdamW's RMS, is Liu et al.'s (arXiv 2502.16982, eq. 4). `torch.optim.Muon` does the same in bfloat16,
    which takes three times as long on a processor without bfloat16 arithmetic. A joint query-key-value matrix is three.
    """

    def __init__(self, params: list[torch.Tensor], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                momentum.lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(momentum, group["momentum"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                rows, columns = parameter.shape
                parts = 3 if columns == 3 * rows else 1
                for target, part in zip(parameter.chunk(parts, 1), update.chunk(parts, 1), strict=True):
                    target.add_(orthogonalised(part), alpha=-group["lr"] * 0.2 * math.sqrt(max(target.shape)))


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """Five steps of a quintic Newton-Schulz iteration towards U V^T of the SVD; singular values end near 1."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x if wide else x.T


def optimisers(model: transformers.GPT2LMHeadModel, recipe: Recipe) -> list[torch.optim.Optimizer]:
    matrices = [p for p in model.transformer.h.parameters() if p.ndim == 2]
    ours = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in ours]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [Muon(matrices, recipe.lr, recipe.weight_decay), torch.optim.AdamW(groups, recipe.lr, betas=recipe.betas)]


def train(out: Path, size: Size, recipe: Recipe) -> None:
    folder = out / size
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "result.json").exists():
        print(f"{size}: done already", flush=True)
        return
    data = windows(out, "train")
    tokens, counted = torch.from_numpy(data.tokens).long(), torch.from_numpy(~data.special)
    model = build(SHAPES[size], recipe)
    movers = optimisers(model, recipe)
    step, log = 0, []
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for mover, saved in zip(movers, state["optimisers"], strict=True):
            mover.load_state_dict(saved)
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
        for group in (g for mover in movers for g in mover.param_groups):
            group["lr"] = learning_rate(step, recipe)
        batch, keep = tokens[index], counted[index]
        loss = loss_of(model, batch, keep) / int(keep[:, 1:].sum())
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        for mover in movers:
            mover.step()
        step += 1
        if step % 25 == 0:
            rate = (step - first) * recipe.batch * recipe.context / (time.perf_counter() - started)
            log.append([step, round(loss.item(), 4)])
            print(f"{size} {step}/{recipe.steps} loss {loss.item():.3f} {rate:,.0f} tokens/s", flush=True)
        if step % 200 == 0:
            state = {
                "model": model.state_dict(),
                "optimisers": [m.state_dict() for m in movers],
                "step": step,
                "log": log,
            }
            torch.save(state, folder / "checkpoint.tmp")
            os.replace(folder / "checkpoint.tmp", checkpoint)
    state = {k: v.half().contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.dtype = "float16"
    model.config.save_pretrained(folder)
    (folder / "loss.json").write_text(json.dumps(log))
    measure(out, size, recipe)


def measure(out: Path, size: Size, recipe: Recipe) -> None:
    """Held-out figures of the weights as they are shipped, rounded, in windows that do not overlap."""
    folder, held = out / size, windows(out, "heldout")
    model = build(SHAPES[size], recipe)
    weights = {k: v.float() for k, v in load_file(folder / "model.safetensors").items()}
    model.load_state_dict(weights | {"lm_head.weight": weights["transformer.wte.weight"]})
    n_bytes = int(held.n_bytes.sum())
    ce = mean_ce(model, torch.from_numpy(held.tokens).long(), torch.from_numpy(~held.special))
    packed = lzma.compress(b"".join(t.encode() for _, t in documents("heldout")), preset=9 | lzma.PRESET_EXTREME)
    result = {
        "size": size,
        "shape": asdict(SHAPES[size]),
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "n_non_embedding": sum(p.numel() for p in model.transformer.h.parameters()),
        "train_tokens": recipe.steps * recipe.batch * recipe.context,
        "heldout_tokens": held.n_tokens,
        "heldout_ce_nats_per_token": ce,
        "heldout_bits_per_byte": ce * held.n_tokens / math.log(2) / n_bytes,
        "xz_bits_per_byte": 8 * len(packed) / n_bytes,
        "recipe": asdict(recipe),
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
    }
    (folder / "result.json").write_text(json.dumps(result, indent=1))
    print(json.dumps({k: v for k, v in result.items() if k != "recipe"}), flush=True)


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
    action: Annotated[Literal["tokenizer", "train", "measure", "publish"], tyro.conf.Positional],
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
    elif action == "measure":
        measure(out, size, recipe)
    else:
        publish(out)


if __name__ == "__main__":
    tyro.cli(main)
