"""One library's training loop, held at every step: run by `workers.py` in the interpreter that has the library.

    python contestant.py SPEC.json

Each library trains by its own code in its own loop. What it is given is a stream of batches that waits for the word:
on "step" it lets the loop have one more batch and answers with the milliseconds until the loop asks for the next. So
the time of a step is all the library does for one, and libraries in different processes can take turns.
"""

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from told import held, told
from torch import Tensor


@dataclass
class Spec:
    """What to train.

    Attributes:
        library, architecture, setting: the contestant; settings are `default` and those its function names.
        data: a folder with train.npy and heldout.npy, `[row, d]`, float32.
        n_latents, k, batch_size: shapes; k is ignored by architectures with a penalty.
        steps: of the whole training, for schedules.
        lr: None for the library's own.
        coefficient: of the sparsity penalty, in the library's own units; None for its own.
    """

    library: str
    architecture: str
    data: str
    n_latents: int
    batch_size: int
    k: int = 32
    setting: str = "default"
    steps: int = 10_000
    lr: float | None = None
    coefficient: float | None = None
    threads: int = 2
    options: dict[str, Any] = field(default_factory=dict)


class Turns:
    """The stream of batches that waits for the word, and the answers.

    Args:
        spec: what to train.
        talk: where to answer.
    """

    def __init__(self, spec: Spec, talk: Any):
        self._train = torch.from_numpy(np.load(Path(spec.data) / "train.npy"))
        self._heldout = torch.from_numpy(np.load(Path(spec.data) / "heldout.npy"))
        self._size, self._talk = spec.batch_size, talk
        self.d = self._train.shape[1]
        self.reconstruct: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
        """From vectors to their reconstructions and the number of active latents of each; set by the library."""
        self._begun: float | None = None

    def __iter__(self) -> Iterator[Tensor]:
        per_epoch = len(self._train) // self._size
        step = 0
        while True:
            self._wait()
            start = (step % per_epoch) * self._size
            batch = self._train[start : start + self._size].clone()  # some libraries scale it in place
            self._begun = time.perf_counter()
            yield batch
            step += 1

    def finish(self) -> None:
        """Answer for the last step of a loop that ended, and what is asked of what it trained."""
        self._wait()

    def _wait(self) -> None:
        if self._begun is not None:
            self._say({"ms": 1e3 * (time.perf_counter() - self._begun)})
            self._begun = None
        while True:
            word = sys.stdin.readline().strip()
            if word == "step":
                return
            if word == "quality":
                self._say(self._quality())
            elif word == "memory":
                self._say({"peak_mib": held()["peak"]})
            else:
                sys.exit(0)

    @torch.no_grad()
    def _quality(self) -> dict[str, float]:
        assert self.reconstruct is not None
        sse, active = 0.0, 0.0
        for x in self._heldout.split(self._size):
            y, l0 = self.reconstruct(x.clone())
            sse += float((y.double() - x.double()).square().sum())
            active += float(l0.sum())
        wide = self._heldout.double()
        total = float((wide - wide.mean(0)).square().sum())
        return {"fvu": sse / total, "l0": active / len(wide)}

    def _say(self, answer: dict[str, float]) -> None:
        self._talk.write(json.dumps(answer) + "\n")
        self._talk.flush()


def _encoder_gemm(spec: Spec, turns: Turns) -> None:
    """x W_encᵀ + b alone, in the fastest fp32 routine at hand."""
    weight = torch.nn.functional.normalize(torch.randn(spec.n_latents, turns.d), dim=1)
    bias, out = torch.zeros(spec.n_latents), torch.empty(spec.batch_size, spec.n_latents)
    onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if spec.setting == "onednn" else None
    rows = max(256, 2**22 // spec.n_latents)  # 16 MiB, which glibc hands out again
    turns.reconstruct = lambda x: (x, torch.zeros(len(x)))
    for x in turns:
        if onednn is not None:
            for part in x.split(rows):
                onednn(part, weight, bias, "none", [], "")
        else:
            torch.mm(x, weight.t(), out=out)


def _polyseme(spec: Spec, turns: Turns) -> None:
    from polyseme.core.batch import SiteBatch
    from polyseme.core.binding import Binding
    from polyseme.dictionaries import (
        BatchTopKConfig,
        GatedConfig,
        JumpReLUConfig,
        MatryoshkaConfig,
        ReLUConfig,
        TopKConfig,
    )
    from polyseme.training import Job, TrainingConfig, fit

    class Source:
        sites = ("site",)
        n_tokens = spec.steps * spec.batch_size
        fingerprint = "benchmark"

        @property
        def widths(self) -> dict[str, int]:
            return {"site": turns.d}

        def batches(self, batch_size: int, *, start: int = 0, stop: int | None = None) -> Iterator[SiteBatch]:
            ids = torch.zeros(batch_size, dtype=torch.int64)
            for x in itertools.islice(turns, (stop or spec.steps) - start):
                yield SiteBatch({"site": x}, ids, ids, ids)

    n, k = spec.n_latents, spec.k
    penalty = {} if spec.coefficient is None else {"coefficient": spec.coefficient}
    config = {
        "topk": lambda: TopKConfig(n_latents=n, k=k),
        "batch_topk": lambda: BatchTopKConfig(n_latents=n, k=k),
        "matryoshka": lambda: MatryoshkaConfig(n_latents=n, k=k),
        "relu": lambda: ReLUConfig(n_latents=n, **penalty),
        "jumprelu": lambda: JumpReLUConfig(n_latents=n, **penalty),
        "gated": lambda: GatedConfig(n_latents=n, **penalty),
    }[spec.architecture]()
    count = int(spec.options.get("dictionaries", 1))
    dictionaries = [config.build(turns.d, seed=seed) for seed in range(count)]

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        z = dictionaries[0].encode(x)
        return dictionaries[0].decode(z), z.offsets.diff()

    turns.reconstruct = reconstruct
    jobs = [Job(f"job{i}", d, Binding.at("site"), seed=i) for i, d in enumerate(dictionaries)]
    settings = TrainingConfig(batch_size=spec.batch_size, lr=spec.lr, **spec.options.get("training", {}))
    fit(jobs, Source(), settings, spreads={})


def _sae_lens(spec: Spec, turns: Turns) -> None:
    """Settings: `sparse` activations for TopK, bfloat16 `autocast`."""
    from sae_lens import (
        BatchTopKTrainingSAE,
        BatchTopKTrainingSAEConfig,
        GatedTrainingSAE,
        GatedTrainingSAEConfig,
        JumpReLUTrainingSAE,
        JumpReLUTrainingSAEConfig,
        MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig,
        StandardTrainingSAE,
        StandardTrainingSAEConfig,
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
    )
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    shape = {"d_in": turns.d, "d_sae": spec.n_latents, "dtype": "float32", "device": "cpu"}
    penalty = spec.coefficient
    # Its sparse activations cannot be rescaled on a CPU.
    sparse = {"use_sparse_activations": True, "rescale_acts_by_decoder_norm": False} if spec.setting == "sparse" else {}
    widths = [round(spec.n_latents * share) for share in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)]
    sae: Any = {
        "topk": lambda: TopKTrainingSAE(TopKTrainingSAEConfig(**shape, k=spec.k, **sparse)),
        "batch_topk": lambda: BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**shape, k=spec.k)),
        "matryoshka": lambda: MatryoshkaBatchTopKTrainingSAE(
            MatryoshkaBatchTopKTrainingSAEConfig(**shape, k=spec.k, matryoshka_widths=widths)
        ),
        "relu": lambda: StandardTrainingSAE(
            StandardTrainingSAEConfig(**shape, **({} if penalty is None else {"l1_coefficient": penalty}))
        ),
        "jumprelu": lambda: JumpReLUTrainingSAE(
            JumpReLUTrainingSAEConfig(**shape, **({} if penalty is None else {"l0_coefficient": penalty}))
        ),
        "gated": lambda: GatedTrainingSAE(
            GatedTrainingSAEConfig(**shape, **({} if penalty is None else {"l1_coefficient": penalty}))
        ),
    }[spec.architecture]()

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        z = sae.encode(x)
        z = z.to_dense() if z.is_sparse else z
        return sae.decode(z), (z != 0).sum(1)

    turns.reconstruct = reconstruct
    trainer = SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=spec.steps * spec.batch_size,
            train_batch_size_samples=spec.batch_size,
            autocast=spec.setting == "autocast",
            lr=spec.lr or 3e-4,
            lr_end=spec.lr or 3e-4,
        ),
        sae=sae,
        data_provider=iter(turns),
    )
    trainer.fit()


def _dictionary_learning(spec: Spec, turns: Turns) -> None:
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.gdm import GatedSAETrainer
    from dictionary_learning.trainers.jumprelu import JumpReluTrainer
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
    from dictionary_learning.trainers.standard import StandardTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    warmup = min(1000, spec.steps // 10)
    common: dict[str, Any] = {
        "steps": spec.steps,
        "activation_dim": turns.d,
        "dict_size": spec.n_latents,
        "layer": 0,
        "lm_name": "none",
        "device": "cpu",
        "seed": 0,
        "warmup_steps": warmup,
    }
    if spec.lr is not None:
        common["lr"] = spec.lr
    penalised = common | {"sparsity_warmup_steps": warmup}
    penalty = {} if spec.coefficient is None else {"l1_penalty": spec.coefficient}
    groups = [1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2]
    trainer: Any = {
        "topk": lambda: TopKTrainer(**common, k=spec.k),
        "batch_topk": lambda: BatchTopKTrainer(**common, k=spec.k),
        "matryoshka": lambda: MatryoshkaBatchTopKTrainer(**common, k=spec.k, group_fractions=groups),
        "relu": lambda: StandardTrainer(**penalised, **penalty),
        "jumprelu": lambda: JumpReluTrainer(**penalised, target_l0=float(spec.k)),
        "gated": lambda: GatedSAETrainer(**penalised, **penalty),
    }[spec.architecture]()
    at_k = {"use_threshold": False} if "topk" in spec.architecture or spec.architecture == "matryoshka" else {}

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        z = trainer.ae.encode(x, **at_k)
        return trainer.ae.decode(z), (z != 0).sum(1)

    turns.reconstruct = reconstruct
    for step, x in enumerate(turns):
        trainer.update(step, x)


def _overcomplete(spec: Spec, turns: Turns) -> None:
    # Its image models want torchvision, of which there is no build for every torch; training needs neither.
    for name in ("torchvision", "torchvision.transforms"):
        sys.modules[name] = ModuleType(name)
    sys.modules["torchvision"].__dict__["transforms"] = sys.modules["torchvision.transforms"]
    from overcomplete.sae import SAE, BatchTopKSAE, JumpSAE, TopKSAE
    from overcomplete.sae.losses import mse_l1
    from overcomplete.sae.train import train_sae

    shape = {"input_shape": turns.d, "nb_concepts": spec.n_latents, "device": "cpu"}
    model: Any = {
        "topk": lambda: TopKSAE(**shape, top_k=spec.k),
        # Its BatchTopK counts the whole batch's latents.
        "batch_topk": lambda: BatchTopKSAE(**shape, top_k=spec.k * spec.batch_size),
        "relu": lambda: SAE(**shape),
        "jumprelu": lambda: JumpSAE(**shape),
    }[spec.architecture]()
    weight = 1.0 if spec.coefficient is None else spec.coefficient

    def criterion(x: Tensor, x_hat: Tensor, pre: Tensor, codes: Tensor, dictionary: Tensor) -> Tensor:
        if "topk" in spec.architecture:
            return (x - x_hat).square().mean()
        return mse_l1(x, x_hat, pre, codes, dictionary, penalty=weight)

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        _, z, y = model(x)
        return y, (z != 0).sum(1)

    turns.reconstruct = reconstruct
    optimiser = torch.optim.Adam(model.parameters(), lr=spec.lr or 1e-3)
    monitoring = 0 if spec.setting == "silent" else 1
    train_sae(model, turns, criterion, optimiser, nb_epochs=1, monitoring=monitoring, device="cpu")


def _sparsify(spec: Spec, turns: Turns) -> None:
    """Its trainer reads a network; this one's only block gives out our batches. Settings: `adam`; by default signum."""
    from sparsify import SaeConfig, TrainConfig, Trainer
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

    if spec.architecture != "topk":
        raise KeyError(spec.architecture)
    batches = iter(turns)

    class Stream(nn.Module):
        def forward(self, ids: Tensor) -> Tensor:
            if ids.numel() != spec.batch_size:  # it asks for the width once, before the training
                return torch.zeros(*ids.shape, turns.d)
            return next(batches).view(*ids.shape, turns.d)

    class Given(PreTrainedModel):
        config_class = PretrainedConfig

        def __init__(self, config: PretrainedConfig):
            super().__init__(config)
            self.anchor = nn.Parameter(torch.zeros(1))
            self.layers = nn.ModuleList([Stream()])

        def forward(self, input_ids: Tensor, **_: Any) -> Tensor:
            return self.layers[0](input_ids)

    class Ids(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return spec.steps

        def __getitem__(self, _: int) -> dict[str, Tensor]:
            return {"input_ids": torch.ones(spec.batch_size, dtype=torch.int64)}

    config = TrainConfig(
        SaeConfig(num_latents=spec.n_latents, k=spec.k),
        batch_size=1,
        optimizer="adam" if spec.setting == "adam" else "signum",
        lr=spec.lr,
        lr_warmup_steps=min(1000, spec.steps // 10),
        hookpoints=["layers.0"],
        log_to_wandb=False,
        save_every=10**9,
    )
    network = Given(PretrainedConfig(num_hidden_layers=1))
    trainer = Trainer(config, Ids(), network)

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        out = trainer.saes["layers.0"](x)
        return out.sae_out, (out.latent_acts > 0).sum(1)

    turns.reconstruct = reconstruct
    trainer.fit()


LIBRARIES: dict[str, Callable[[Spec, Turns], None]] = {
    "encoder GEMM": _encoder_gemm,
    "polyseme": _polyseme,
    "sae-lens": _sae_lens,
    "dictionary-learning": _dictionary_learning,
    "overcomplete": _overcomplete,
    "sparsify": _sparsify,
}
"""Name to the loop; `architecture` raises KeyError where a library has none."""


def main() -> None:
    """Train as told, one step a word."""
    spec, talk = told(Spec)
    turns = Turns(spec, talk)
    LIBRARIES[spec.library](spec, turns)
    turns.finish()


if __name__ == "__main__":
    main()
