"""Loading networks: safetensors only, no code from the folder, offline unless a download is requested."""

import copy
import warnings
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, field_validator
from torch import nn

from polyseme.core.config import Config, Location, Name
from polyseme.core.errors import InputError
from polyseme.core.validation import check_kind
from polyseme.kernels.shield import shielded
from polyseme.networks.building import build, first_line, read_tokenizer
from polyseme.networks.entry import from_entry_point, is_entry_point
from polyseme.networks.families import Family, find_family
from polyseme.networks.folders import named_files
from polyseme.networks.fusion import fuse
from polyseme.networks.hooks import Repeated
from polyseme.networks.inputs import Inputs
from polyseme.networks.ladders import LADDER, Rung, read_ladder
from polyseme.networks.loaded import Loaded
from polyseme.networks.network import Network
from polyseme.networks.offline import keep_offline

SHIPPED = ("pylm",)
"""Networks that come with the package."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class NetworkConfig(Config):
    """A network, by name or folder."""

    source: Location = "pylm"
    """`pylm` (the model that comes with polyseme), a folder in the Hugging Face layout, a hub name, or an entry point
    `package.module:function`, imported as `import package.module` would be; called with no arguments, the function
    returns a module, or a module and its tokenizer."""
    revision: Name | None = None
    """Branch, tag or commit of a hub name; give a commit for a study that is to be repeated."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision that the weights are converted to and the network computes in."""
    device: Annotated[str, Field(max_length=16, pattern=r"^(auto|cpu|(cuda|mps|xpu)(:\d{1,3})?)$")] = "auto"
    """Device of the network: `auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`, …"""
    download: bool = False
    """Download a hub name that is not on this machine yet; without it nothing is downloaded."""
    linear: Literal["plain", "fused"] = "plain"
    """How linear maps are computed on the CPU: `fused` uses oneDNN, with a GELU after a map in the same pass, and a
    loop in C for attention, which is faster and equal to about 1e-6 instead of bit for bit."""

    @field_validator("source", mode="before")
    @classmethod
    def _named(cls, source: Any) -> Any:
        if isinstance(source, nn.Module):
            raise ValueError(
                "is a module, and a study names its network: write a function that returns it (and its tokenizer) "
                'and give source = "package.module:function"; to read a module itself, use load_network(module)'
            )
        return str(source) if isinstance(source, Path) else source

    def build(self) -> Network:
        """Load it; see `load_network`."""
        return load_network(
            self.source,
            revision=self.revision,
            dtype=self.dtype,
            device=self.device,
            download=self.download,
            linear=self.linear,
        )


@shielded
def load_network(
    source: str | Path | nn.Module,
    *,
    run: Callable[[nn.Module, Any], Any] | None = None,
    tokenizer: Any | None = None,
    revision: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    device: str | None = None,
    download: bool = False,
    linear: Literal["plain", "fused"] = "plain",
    example_inputs: Inputs | None = None,
    causal: bool | None = None,
    predicts_tokens: bool | None = None,
    context: int | None = None,
    repeated: Repeated = "error",
) -> Network:
    """A network ready to be read and edited; its passes run in eval mode.

    Args:
        source: `pylm`, a folder or hub name in the Hugging Face layout, an entry point `package.module:function`, or a
            module. A module is left as it is, but moved where `device` is given; a change of its weights (`dtype`)
            is made on a copy, and one of its code (`linear`) on a copy that shares its weights.
        run: `run(module, inputs)` for a module that is no Hugging Face model, returning a tensor or something with
            one in it; by default `module(inputs)`, and `module(**inputs)` for a dict.
        tokenizer: a tokenizer, or the folder of one; by default the source's own.
        revision: of a hub name.
        dtype: of the weights; by default float32 for a folder or name, unchanged for a module.
        device: `auto`, or a torch device; by default `auto` for a folder or name, unchanged for a module.
        download: fetch a hub name that is not on this machine.
        linear: `fused` computes linear maps through oneDNN where that can be had on the CPU, and attention by a loop
            in C (`networks.fusion`).
        example_inputs: inputs that run, for a module of an unknown kind; site widths are measured on them.
        causal: whether position t sees only positions up to t; by default this is measured on first use, and
            False for a network that reads no tokens.
        predicts_tokens: whether it predicts the next token; by default it does where it is causal and gives logits
            over the tokens it reads.
        context: most positions a window may have; by default what the config and the network's tables allow.
        repeated: for a module called more than once in a pass: `error`, or `first` to mean its first call.

    Raises:
        InputError: no such folder or name, weights only as pickles, a damaged or incomplete checkpoint, a custom
            architecture that needs remote code, an entry point that cannot be imported or fails, an unknown device.
    """
    if isinstance(source, str) and is_entry_point(source) and not Path(source).exists():
        source, own_tokenizer = from_entry_point(source)
        tokenizer = own_tokenizer if tokenizer is None else tokenizer
        device = device or "auto"
        has_dtype = dtype is None or all(p.dtype is _DTYPES[dtype] for p in _floating(source))
        dtype = None if has_dtype else dtype
    ladder: tuple[Rung, ...] = ()
    if isinstance(source, nn.Module):
        module = copy.deepcopy(source) if dtype is not None else source
        if dtype is not None:
            module = module.to(_DTYPES[dtype]).eval().requires_grad_(False)
        if linear == "fused" and module is source:
            module = _sharing(module)
        placed = module if device is None else module.to(_device(device))
    else:
        place = _device("auto" if device is None else device)
        fix = 'give "pylm", a folder, a name on the hub, package.module:function, or a torch module'
        check_kind(source, (str, Path), "network", where="source", fix=fix)
        folder = _folder(source, revision, download)
        module, own_tokenizer = build(folder, _DTYPES[dtype or "float32"], str(folder))
        tokenizer = own_tokenizer if tokenizer is None else tokenizer
        placed = module.to(place).eval().requires_grad_(False)
        ladder = read_ladder(folder, sum(p.numel() for p in placed.parameters()))
        if not download:
            keep_offline(placed)
    if isinstance(tokenizer, (str, Path)):
        tokenizer = _given_tokenizer(Path(tokenizer))
    is_hugging_face = hasattr(placed, "base_model_prefix") and hasattr(getattr(placed, "config", None), "model_type")
    base, family = find_family(placed) if is_hugging_face else ("", None)
    if run is None and not is_hugging_face:
        run = _call
    if linear == "fused":
        fuse(placed, *_fusible(placed, base, family))
    loaded = Loaded(
        placed,
        run=run,
        family=family,
        base=base,
        tokenizer=tokenizer,
        causal=causal,
        predicts_tokens=predicts_tokens,
        context=context,
        example_inputs=example_inputs,
        repeated=repeated,
        ladder=ladder,
    )
    network = Network(loaded)
    shown = network.facts.causal_by_passes if causal is not None else None
    if shown is not None and shown != causal:
        measured = "does not depend" if shown else "depends"
        warnings.warn(
            f"causal={causal} was given, but what {type(placed).__name__} computes at a position {measured} on later "
            f"tokens; {causal} is taken",
            stacklevel=2,
        )
    return network


def _floating(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.is_floating_point()]


def _call(module: nn.Module, inputs: Any) -> Any:
    return module(**inputs) if isinstance(inputs, dict) else module(inputs)


def _sharing(module: nn.Module) -> nn.Module:
    """A copy of the module with the same parameters and buffers."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def _fusible(module: nn.Module, base: str, family: Family | None) -> tuple[list[tuple[str, str]], list[str]]:
    """Paths of the linear maps whose non-linearity follows at once, with its path; and those of attentions."""
    if family is None:
        return [], []
    n_blocks = len(list(module.get_submodule(f"{base}{family.blocks}").children()))
    own = [(f"{base}{a}", f"{base}{b}") for a, b in family.activated]
    pairs = [(a.format(n=n), b.format(n=n)) for n in range(n_blocks) for a, b in own]
    attention = [f"{base}{family.attention}".format(n=n) for n in range(n_blocks) if family.attention]
    return pairs, attention


def _device(name: str) -> torch.device:
    """The device of that name, tried with a small product.

    Raises:
        InputError: there is none, or nothing can be computed on it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it holds no numbers")
        ones = torch.ones(2, 2, dtype=torch.float32, device=device)
        if float((ones @ ones).cpu().sum()) != 8:
            raise RuntimeError("it computes 2 × 2 products wrongly")
        return device
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"The device {name!r} cannot be used: {line}", where="device", fix="use device = 'auto' or 'cpu'"
        ) from error


def _given_tokenizer(folder: Path) -> Any:
    tokenizer = read_tokenizer(folder) if folder.is_dir() else None
    if tokenizer is None:
        raise InputError("There is no tokenizer in this folder", where=str(folder), fix="give a folder with one")
    return tokenizer


def _folder(source: str | Path, revision: str | None, download: bool) -> Path:
    """The folder to load from; that of a hub name is its copy on this machine, made where a download is requested.

    Raises:
        InputError: there is no such folder or name, or it may not be read.
    """
    shipped = str(source) in SHIPPED
    folder = Path(str(files("polyseme.networks") / str(source))) if shipped else Path(source)
    try:
        folder = folder.expanduser()
        is_folder, exists = folder.is_dir(), folder.exists()
        if is_folder:
            next(iter(folder.iterdir()), None)
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"the network folder may not be read: {reason}",
            where=str(source)[:200],
            fix="give a folder that you have the right to read",
        ) from error
    if is_folder:
        return folder
    if shipped:
        raise InputError(f"The network {source} is missing from the package", where=str(folder), fix="reinstall it")
    is_path = isinstance(source, Path) or source.startswith((".", "/", "~")) or source.count("/") > 1
    if is_path or exists:
        what = "is a file, not a folder" if exists else "does not exist"
        raise InputError(f"the network folder {what}", where=str(folder), fix="give a Hugging Face model folder")
    return _hub_folder(str(source), revision, download)


_SMALL = (
    "config.json",
    "model.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    LADDER,
)
_VOCABULARIES = ("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model")


def _hub_folder(name: str, revision: str | None, download: bool) -> Path:
    """Where a hub name's files lie on this machine; these files alone are fetched first where a download is
    requested."""
    from huggingface_hub import snapshot_download

    options: dict[str, Any] = {"revision": revision or "main", "local_files_only": not download}
    try:
        place = Path(snapshot_download(name, allow_patterns=[*_SMALL, *_VOCABULARIES], **options))
        if download:
            index = place / "model.safetensors.index.json"
            weights = [path.name for path in named_files(index)] if index.exists() else ["model.safetensors"]
            place = Path(snapshot_download(name, allow_patterns=weights, **options))
    except InputError:
        raise
    except Exception as error:
        if download:
            fix = "check the name and the connection; only safetensors weights and transformers' own models are loaded"
            raise InputError(
                f"The network {name!r} cannot be fetched or loaded: {first_line(error)}", where=name[:200], fix=fix
            ) from error
        raise InputError(
            f"There is no folder {name!r}, and no network of that name on this machine",
            where=name[:200],
            fix="give a folder, or allow a download with download = true (--network.download, download=True)",
        ) from error
    return place
