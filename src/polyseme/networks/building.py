"""From a checked model folder to a module and its tokenizer, through transformers: nothing is fetched, no code is run.

All that loaders raise becomes one `InputError` here.
"""

import re
import tempfile
import threading
from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from polyseme.core.errors import InputError
from polyseme.networks import folders
from polyseme.networks.offline import offline


def build(folder: Path, dtype: torch.dtype, where: str) -> tuple[nn.Module, Any | None]:
    """The module and the tokenizer of a model folder.

    Args:
        folder: in the Hugging Face layout.
        dtype: what the weights are converted to.
        where: what errors call it.

    Raises:
        InputError: anything wrong with it.
    """
    cleaned = folders.read_config(folder)
    weights = folders.read_weights(folder)
    fix = "check config.json and the *.safetensors files, and copy the folder again"
    with loading("The network cannot be loaded", where, fix), offline(), _quiet():
        import transformers

        config = _config(transformers, cleaned, folder)
        make = _model_class(transformers, config, cleaned, where)
        _check_size(make, config, weights, where)
        module, info = make.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype=dtype,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
    others = sorted((str(name), tuple(has), tuple(wants)) for name, has, wants in info.get("mismatched_keys", ()))
    if others:
        name, has, wants = others[0]
        raise InputError(
            f"The tensor {name} is {has} in the checkpoint, and {wants} in the network that config.json describes",
            where=where,
            fix="check that config.json and the weights belong together",
        )
    lacking = sorted(map(str, info.get("missing_keys", ())))
    if lacking:
        raise InputError(
            f"The checkpoint lacks {len(lacking)} of the network's tensors, {lacking[0]} for one; they would be random",
            where=where,
            fix="check that config.json and the weights belong together",
        )
    _check_unread(module, info.get("unexpected_keys", ()), cleaned, where)
    _check_finite(module, weights, where)
    has_tokens = getattr(module, "main_input_name", "input_ids") == "input_ids"
    return cast(nn.Module, module), read_tokenizer(folder, config) if has_tokens else None


def read_tokenizer(folder: Path, config: Any = None) -> Any | None:
    """The tokenizer of a folder; None where there is none.

    Args:
        folder: with `tokenizer.json` or the like.
        config: of the network it belongs to, where that is read already.

    Raises:
        InputError: it is damaged, needs code or a library that is not there, or cannot encode every text.
    """
    if not folders.has_tokenizer(folder):
        return None
    folders.check_tokenizer(folder)
    fix = "check the tokenizer's files, and copy the folder again"
    with loading("The tokenizer cannot be read", str(folder), fix), offline():
        import transformers

        given = {} if config is None else {"config": config}
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True, **given
        )
        if not isinstance(tokenizer, transformers.PreTrainedTokenizerBase):
            raise ValueError(f"it is a {type(tokenizer).__name__}")
    with loading(
        "The tokenizer cannot encode text it has no tokens for",
        str(folder),
        "give it an unknown token (unk_token) that is in its vocabulary",
    ):
        tokenizer(["Ѣ ☃ 龘 a1"], add_special_tokens=False)
    return tokenizer


@contextmanager
def loading(what: str, where: str, fix: str) -> Generator[None]:
    """Turn whatever a loader raises into one sentence that says what to do.

    Args:
        what: the sentence's beginning.
        where: the folder.
        fix: what to do about it, where the exception does not say.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except BaseException as error:
        # A panic in a library written in Rust is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if isinstance(error, ImportError):
            fix = "install the library it needs, or save the network in a form that does without"
        raise InputError(f"{what}: {first_line(error)}", where=where, fix=fix) from error


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, with its kind where that alone says little."""
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1])
    kind = type(error).__name__
    return (
        f"{kind}: {line}"[:500] if isinstance(error, (KeyError, AttributeError, TypeError)) or not line else line[:500]
    )


@contextmanager
def _quiet() -> Generator[None]:
    """No progress bars of transformers'."""
    import transformers

    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _config(transformers: Any, cleaned: dict[str, Any], folder: Path) -> Any:
    import json

    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "config.json").write_text(json.dumps(cleaned), encoding="utf-8")
        config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False, local_files_only=True)
    config._name_or_path = str(folder)
    return config


def _is_model(transformers: Any, found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)


def _model_class(transformers: Any, config: Any, cleaned: Mapping[str, Any], where: str) -> Any:
    """The class a config names, as long as it is one of transformers' own models, and of this config."""
    for name in cleaned.get("architectures") or ():
        found = getattr(transformers, name, None)
        if found is None:
            continue  # a class of the folder's own code, which is not run
        made_for = getattr(found, "config_class", None) if _is_model(transformers, found) else None
        if made_for is None or not isinstance(config, made_for):
            raise InputError(
                f"config.json names the architecture {name}, which is not one of model type {config.model_type!r}",
                where=where,
                fix="correct `architectures` in config.json, or remove it",
            )
        return found
    mapping = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    # The class itself, and not the one that chooses it: that one looks into the folder again.
    return mapping[type(config)] if type(config) in mapping else transformers.MODEL_MAPPING[type(config)]


def _check_size(make: Any, config: Any, weights: Mapping[str, Tensor], where: str) -> None:
    """Refuse a config of a far larger network than the weights are of: building it could take all time and memory."""
    here, parts, numbers = threading.get_ident(), 0, 0
    # A block has a few modules to a tensor; no network of these weights has more parts than this.
    most_parts = 8 * len(weights) + 500
    most_numbers = 3 * folders.n_numbers(weights) + 10**7

    def count(_module: nn.Module, _name: str, part: Any) -> None:
        nonlocal parts, numbers
        if threading.get_ident() != here or part is None:
            return
        parts += 1
        numbers += part.numel() if isinstance(part, Tensor) else 0
        if parts > most_parts or numbers > most_numbers:
            raise InputError(
                f"config.json describes a far larger network than the weights are of, which have {len(weights):,} "
                f"tensors and {folders.n_numbers(weights):,} numbers",
                where=where,
                fix="check that config.json and the weights belong together",
            )

    hooks = nn.modules.module
    with ExitStack() as stack:
        stack.callback(hooks.register_module_parameter_registration_hook(count).remove)
        stack.callback(hooks.register_module_buffer_registration_hook(count).remove)
        stack.callback(hooks.register_module_module_registration_hook(count).remove)
        with torch.device("meta"):
            make(config)


def _check_unread(module: nn.Module, unread: Iterable[str], cleaned: Mapping[str, Any], where: str) -> None:
    """Refuse a checkpoint with more blocks than its config says: the network would be cut short without a word."""
    if cleaned.get("num_nextn_predict_layers"):
        return  # blocks beyond the last predict further tokens, and transformers leaves them out
    base = f"{getattr(module, 'base_model_prefix', '')}."

    def of_any_block(name: str) -> str:
        return re.sub(r"\d+", "#", name.removeprefix(base))

    known = {of_any_block(name) for name, _ in module.named_parameters()}
    is_flat = not any("#" in name for name in known)
    for name in sorted(unread):
        pattern = of_any_block(name)
        if "#" in pattern and (is_flat or pattern in known):
            raise InputError(
                f"The checkpoint has blocks that config.json leaves out: it holds {name}, say",
                where=where,
                fix="check that config.json and the weights belong together",
            )


@torch.no_grad()
def _check_finite(module: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights that are not finite, by the name of one."""
    for name, parameter in module.named_parameters():
        if not parameter.is_floating_point() or bool(torch.isfinite(parameter.sum())):
            continue
        if bool(torch.isfinite(parameter).all()):
            continue
        mine = weights.get(name)
        whole = mine is not None and mine.is_floating_point() and bool(torch.isfinite(mine.float()).all())
        dtype = str(parameter.dtype).removeprefix("torch.")
        raise InputError(
            f"The tensor {name} holds numbers that are not finite" + (f" in {dtype}" if whole else ""),
            where=where,
            fix='load it with dtype = "float32"' if whole else "copy the folder again, or take another checkpoint",
        )
