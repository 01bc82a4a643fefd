"""Loading networks: safetensors only, no code from the folder, offline unless a download is asked for."""

import copy
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import nn

from polyseme.core.config import Config, Location, Name
from polyseme.core.errors import InputError
from polyseme.networks.families import Family, find_family
from polyseme.networks.fusion import fuse
from polyseme.networks.hooks import Repeated
from polyseme.networks.inputs import Inputs
from polyseme.networks.network import Network
from polyseme.networks.reinit import ReinitConfig

SHIPPED = ("pylm",)
"""Networks that come with the package."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class NetworkConfig(Config):
    """A network, by name or folder."""

    source: Location = "pylm"
    """`pylm` (the model that comes with polyseme), a folder in the Hugging Face layout, or a hub name."""
    revision: Name | None = None
    """Branch, tag or commit of a hub name; pin a commit for a study that is to be repeated."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the weights are converted to and the network computes in."""
    device: Annotated[str, Field(max_length=16, pattern=r"^(auto|cpu|(cuda|mps|xpu)(:\d{1,3})?)$")] = "auto"
    """`auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`, …"""
    download: bool = False
    """Fetch a hub name that is not on this machine yet; without it nothing touches the network."""
    linear: Literal["plain", "fused"] = "plain"
    """`fused` computes linear maps on the CPU through oneDNN, with a GELU after one in the same pass, and attention by
    a loop in C: faster, and equal to about 1e-6 instead of bit for bit."""
    reinit: ReinitConfig | None = None
    """Make the weights random, with chosen statistics kept: a control."""

    def build(self) -> Network:
        """Load it; see `load_network`."""
        return load_network(
            self.source,
            revision=self.revision,
            dtype=self.dtype,
            device=self.device,
            download=self.download,
            linear=self.linear,
            reinit=self.reinit,
        )


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
    reinit: ReinitConfig | None = None,
    example_inputs: Inputs | None = None,
    causal: bool | None = None,
    predicts_tokens: bool | None = None,
    context: int | None = None,
    repeated: Repeated = "error",
) -> Network:
    """A network ready to be read and edited, in eval mode.

    Args:
        source: `pylm`, a folder or hub name in the Hugging Face layout, or a module. A module is put in eval mode where
            it is; a change of its weights (`dtype`, `reinit`) is made on a copy, and one of its code (`linear`) on a
            copy that shares its weights.
        run: `run(module, inputs)` for a module that is no Hugging Face model, returning a tensor or something with
            one in it; by default `module(inputs)`, and `module(**inputs)` for a dict.
        tokenizer: a tokenizer, or the folder of one; by default the source's own.
        revision: of a hub name.
        dtype: of the weights; by default float32 for a folder or name, unchanged for a module.
        device: `auto`, or a torch device; by default `auto` for a folder or name, unchanged for a module.
        download: fetch a hub name that is not on this machine.
        linear: `fused` computes linear maps through oneDNN where that can be had on the CPU, and attention by a loop
            in C (`networks.fusion`).
        reinit: make the weights random, with chosen statistics kept.
        example_inputs: inputs that run, for a module of an unknown kind; site widths are measured on them.
        causal: whether position t sees only positions up to t; by default this is measured where it is asked for, and
            False for a network that reads no tokens.
        predicts_tokens: whether it predicts the next token; by default it does where it is causal and gives logits
            over the tokens it reads.
        context: most positions a window may have; by default what the config and the network's tables allow.
        repeated: for a module called more than once in a pass: `error`, or `first` to mean its first call.

    Raises:
        InputError: no such folder or name, weights only as pickles, a damaged or incomplete checkpoint, a custom
            architecture that needs remote code, an unknown device.
    """
    if isinstance(source, nn.Module):
        module = copy.deepcopy(source) if dtype is not None or reinit is not None else source
        if dtype is not None:
            module = module.to(_DTYPES[dtype])
        if linear == "fused" and module is source:
            module = _sharing(module)
        placed = module if device is None else module.to(_device(device))
    else:
        place = _device(device or "auto")
        module, own_tokenizer = _from_files(source, revision, _DTYPES[dtype or "float32"], download)
        tokenizer = own_tokenizer if tokenizer is None else tokenizer
        placed = module.to(place)
    if isinstance(tokenizer, (str, Path)):
        tokenizer = _tokenizer(str(tokenizer), {"local_files_only": True})
    placed.eval().requires_grad_(False)
    is_hugging_face = hasattr(placed, "base_model_prefix") and hasattr(getattr(placed, "config", None), "model_type")
    base, family = find_family(placed) if is_hugging_face else ("", None)
    if run is None and not is_hugging_face:
        run = _call
    if linear == "fused":
        fuse(placed, *_fusible(placed, base, family))
    record = None
    if reinit is not None:
        record = reinit.build(placed, embeddings=[f"{base}{name}" for name in family.embeddings] if family else ())
    network = Network(
        placed,
        run=run,
        family=family,
        base=base,
        tokenizer=tokenizer,
        causal=causal,
        predicts_tokens=predicts_tokens,
        context=context,
        reinit=record,
        example_inputs=example_inputs,
        repeated=repeated,
    )
    if causal is not None and network.facts.causal not in (None, causal):
        measured = "does not depend" if network.facts.causal else "depends"
        warnings.warn(
            f"causal={causal} was given, but what {type(placed).__name__} computes at a position {measured} on later "
            f"tokens; {causal} is taken",
            stacklevel=2,
        )
    return network


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
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"The device {name!r} cannot be used: {str(error).splitlines()[0]}", fix="use device = 'auto' or 'cpu'"
        ) from error


def _from_files(
    source: str | Path, revision: str | None, dtype: torch.dtype, download: bool
) -> tuple[nn.Module, Any | None]:
    """The module and tokenizer of a folder or hub name."""
    place, options = _place(source, revision, download)
    import transformers

    with _errors(str(source), place, download):
        config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False, **options)
    make = _model_class(transformers, config)
    with _errors(str(source), place, download), _no_progress_bar(transformers):
        module, info = make.from_pretrained(
            place,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    wrong = sorted(str(name) for kind in ("missing_keys", "mismatched_keys") for name in info.get(kind, ()))
    if wrong:
        raise InputError(
            f"The checkpoint lacks {len(wrong)} of the network's tensors, {wrong[0]} for one; they would be random",
            where=str(source),
            fix="check that config.json and the weights belong together",
        )
    has_tokens = getattr(module, "main_input_name", "input_ids") == "input_ids"
    return cast(nn.Module, module), _tokenizer(place, options) if has_tokens else None


def _place(source: str | Path, revision: str | None, download: bool) -> tuple[str, dict[str, Any]]:
    """The folder or name to load from, and the options every loader gets."""
    folder = Path(str(files("polyseme.networks") / str(source))) if source in SHIPPED else Path(source).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError("The folder has no config.json", where=str(folder), fix="give a Hugging Face model folder")
        if not any(folder.glob("*.safetensors")):
            pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
            if pickled:
                raise InputError(
                    f"The folder has weights only as a pickle ({pickled[0]}), which can run code when it is read",
                    where=str(folder),
                    fix="where you trust it, load it with transformers and call "
                    "model.save_pretrained(folder), which writes model.safetensors",
                )
            raise InputError("The folder has no *.safetensors", where=str(folder), fix="give a folder with weights")
        return str(folder), {"local_files_only": True}
    if source in SHIPPED:
        raise InputError(f"The network {source} is missing from the package", where=str(folder), fix="reinstall it")
    is_path = isinstance(source, Path) or source.startswith((".", "/", "~")) or source.count("/") > 1
    if is_path or folder.exists():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise InputError(f"The network folder {what}", where=str(folder), fix="give a Hugging Face model folder")
    return str(source), {"local_files_only": not download, "revision": revision or "main"}


def _model_class(transformers: Any, config: Any) -> Any:
    """The class a config names, as long as it is one of transformers' own models."""
    for name in getattr(config, "architectures", None) or ():
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    mapping = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    return transformers.AutoModelForCausalLM if type(config) in mapping else transformers.AutoModel


def _tokenizer(place: str, options: dict[str, Any]) -> Any | None:
    """The tokenizer of a folder or hub name; None where there is none."""
    import transformers

    folder = Path(place)
    known = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "tokenizer.model")
    if folder.is_dir() and not any((folder / name).is_file() for name in known):
        return None
    try:
        return transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError) as error:
        if not folder.is_dir():
            return None
        raise InputError(f"The tokenizer cannot be read: {_first_line(error)}", where=place) from error


@contextmanager
def _errors(source: str, place: str, download: bool) -> Generator[None]:
    """Turn the loaders' many exceptions into one that says what to do."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        line = _first_line(error)
        if Path(place).is_dir():
            fix = "check config.json and the *.safetensors files, and copy the folder again"
            raise InputError(f"The network cannot be loaded: {line}", where=place, fix=fix) from error
        if download:
            fix = "check the name and the connection; only safetensors weights and transformers' own models are loaded"
            raise InputError(f"The network {source!r} cannot be fetched or loaded: {line}", fix=fix) from error
        raise InputError(
            f"There is no folder {source!r}, and no network of that name on this machine",
            fix="give a folder, or allow a download with download = true (--network.download, download=True)",
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def _no_progress_bar(transformers: Any) -> Generator[None]:
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
