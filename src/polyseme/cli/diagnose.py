"""`polyseme diagnose`: why the neurons of a site are polysemantic, of a saved toy, a toy by name, or a real network."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from polyseme.cli.flags import Group
from polyseme.core.config import Config, Count, FilePath, FilePaths, Width
from polyseme.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from polyseme.networks import Network

EXAMPLE = "polyseme diagnose toy:superposition --site hidden"
TOY = "toy:"
N_TRAINED = 5
"""Networks of a toy by name that are trained unless its seeds are given: one to diagnose, the others as siblings."""


class Options(Config):
    """What is diagnosed, and where the answer goes."""

    site: str = Field(default="", max_length=512)
    """The site, by name or module path; `polyseme sites NETWORK` lists a real network's."""
    out: FilePath = Path("runs/diagnosis")
    """A folder for `diagnosis.json`."""


class ToyOptions(Config):
    """Which of a toy's networks is diagnosed; they are trained first."""

    index: int = Field(default=0, ge=0, le=10**6)
    """Which of the toy's networks, counted from 0; those of other seeds and the same setting are its siblings."""
    siblings: int = Field(default=8, ge=0, le=1000)
    """Most siblings looked at; without any, `incidental` is not answered."""


class SavedOptions(Config):
    """What stands beside a network of `polyseme zoo train`."""

    siblings: int = Field(default=8, ge=0, le=1000)
    """Most siblings looked at: networks saved beside this one, of other seeds and the same setting."""


class TextOptions(Config):
    """The text that a real network reads."""

    windows: Width = 320
    """Most windows of text that are read, each one a row of the data."""
    text: FilePaths = ()
    """Text files, and folders of .txt files, to read whole; by default what pylm was not trained on of the source of
    Python's standard library."""
    context: int = Field(default=64, ge=2, le=2**20)
    """Tokens a window."""
    document_tokens: Count = 128
    """Most tokens of one document: many short stretches tell more than a few long ones."""


@dataclass(frozen=True)
class _Subject:
    """A network and its data: all that a diagnosis sees."""

    network: "Network"
    inputs: "Tensor"
    siblings: tuple["Network", ...] = ()
    counted: "Tensor | None" = None


def diagnose(args: list[str]) -> int:
    """`polyseme diagnose NETWORK --site SITE [flags]`."""
    from polyseme.cli.commands import make_reporter, positional
    from polyseme.diagnosis import diagnose as run
    from polyseme.report.diagnosis import print_diagnosis
    from polyseme.screen.console import make_console
    from polyseme.store import save_json

    meaning = f"a folder of `polyseme zoo train`, {TOY}NAME, pylm, a folder, or a hub name"
    source, rest = positional(args, "NETWORK", meaning, EXAMPLE)
    if not source:
        _parsed(rest, "NETWORK", _every_group())
    reporter = make_reporter()
    if source.startswith(TOY):
        options, config, subject = _toy(source.removeprefix(TOY), source, rest, reporter)
    elif (Path(source) / "toy.json").is_file():
        options, config, subject = _saved(Path(source), source, rest)
    else:
        options, config, subject = _real(source, rest, reporter)
    found = run(
        subject.network,
        options.site,
        subject.inputs,
        config,
        reporter,
        siblings=subject.siblings,
        controls=_controls(subject, config.seed, reporter),
        counted=subject.counted,
    )
    about = {
        "network": source,
        "fingerprint": subject.network.fingerprint,
        "siblings": len(subject.siblings),
        "config": config.model_dump(mode="json"),
    }
    save_json(options.out / "diagnosis.json", {**about, **found.model_dump(mode="json")})
    reporter.close()
    print_diagnosis(found, console=make_console())
    print(f"\nwritten to {options.out / 'diagnosis.json'}")
    return 0


def _toy(name: str, source: str, args: list[str], reporter: Any) -> tuple[Options, Any, _Subject]:
    """A toy by name: trained here, one network diagnosed, the others of its setting its siblings."""
    from polyseme.networks import load_network
    from polyseme.zoo.running import toy_named

    kind = toy_named(name).config
    seeds = kind.model_fields.get("seeds")
    few = {"seeds": list(range(N_TRAINED))} if seeds is not None and len(seeds.default or ()) > N_TRAINED else {}
    groups = [Group(ToyOptions, title="a toy by name"), Group(kind, prefix="toy", given=few)]
    options, config, of_toy, toy = _parsed(args, source, groups)
    _site(load_network(toy.build()), options.site)  # before the training
    networks = toy.train(reporter)
    if of_toy.index >= len(networks):
        raise InputError(
            f"the toy has {len(networks)} networks and none of index {of_toy.index}",
            where="--index",
            fix=f"give one of 0 to {len(networks) - 1}",
        )
    chosen = networks[of_toy.index]
    if not chosen.trained:
        raise _untrained(f"{source}, network {of_toy.index}", "train it longer, or take another with --index")
    network = chosen.network()
    alike = [t for t in networks if t.setting == chosen.setting and t.seed != chosen.seed and t.trained]
    siblings = tuple(t.network() for t in alike[: of_toy.siblings])
    return options, config, _Subject(network, _drawn(chosen, config), siblings)


def _drawn(toy: Any, config: Any) -> "Tensor":
    from polyseme.core.seeds import make_generator

    return toy.draw(config.max_rows, make_generator(config.seed, "diagnose", "inputs")).inputs


def _saved(folder: Path, source: str, args: list[str]) -> tuple[Options, Any, _Subject]:
    """A toy saved by `polyseme zoo train`, with the rows of data saved beside it."""
    from polyseme.networks import load_network
    from polyseme.zoo.running import load_toy, read_toy, saved_inputs

    options, config, saved = _parsed(args, source, [Group(SavedOptions, title="a saved toy")])
    about = read_toy(folder)
    if not about.trained:
        raise _untrained(str(folder), "train it longer, or take another of the networks beside it")
    inputs = saved_inputs(folder)
    network = load_network(load_toy(folder)[0], example_inputs=inputs[:2])
    _site(network, options.site)
    siblings: list[Network] = []
    for path in sorted(folder.absolute().parent.glob("*/toy.json"), key=lambda p: (len(p.parent.name), p.parent.name)):
        other = read_toy(path.parent)
        same = (other.toy, other.config, other.setting) == (about.toy, about.config, about.setting)
        if same and other.seed != about.seed and other.trained and len(siblings) < saved.siblings:
            siblings.append(load_network(load_toy(path.parent)[0], example_inputs=inputs[:2]))
    return options, config, _Subject(network, inputs, tuple(siblings))


def _real(source: str, args: list[str], reporter: Any) -> tuple[Options, Any, _Subject]:
    """A real network and a corpus: its vectors are looked at without any variables of the data."""
    import torch

    from polyseme.corpora import StdlibCorpusConfig, TextCorpusConfig, load_windows
    from polyseme.networks import NetworkConfig

    groups = [Group(TextOptions, title="text"), Group(NetworkConfig, prefix="network", given={"source": source})]
    options, config, of_text, network_config = _parsed(args, source, groups)
    if of_text.windows < config.min_rows:
        raise InputError(
            f"{of_text.windows} windows are fewer than the {config.min_rows} rows that a diagnosis needs",
            where="--windows",
            fix=f"give at least {config.min_rows}",
        )
    corpus: Any = (TextCorpusConfig(paths=of_text.text) if of_text.text else StdlibCorpusConfig()).build()
    reporter.message(f"loading {source}")
    network = network_config.build()
    _site(network, options.site)
    if network.tokenizer is None:
        raise InputError(
            f"the network has no tokenizer, so no corpus can be read ({network.family})",
            where=source,
            fix="diagnose it in Python: polyseme.diagnosis.diagnose(network, site, inputs)",
        )
    most = network.context or of_text.context
    if not 2 <= of_text.context <= most:
        raise InputError(
            f"a context of {of_text.context} is not between 2 and the network's {most}",
            where="--context",
            fix=f"give {min(64, most)}",
        )
    windows = load_windows(
        corpus,
        network.tokenizer,
        split="heldout",
        context=of_text.context,
        max_tokens=of_text.windows * (of_text.context - 1),
        document_tokens=of_text.document_tokens,
        # Nothing here is trained on text; but pylm was, on the other nine tenths of the standard library.
        heldout_fraction=1.0 if of_text.text else 0.1,
        seed=config.seed,
        allow_fewer=True,
        reporter=reporter,
    )
    if len(windows) < config.min_rows:
        raise InputError(
            f"the text fills {len(windows)} windows of {of_text.context} tokens; a diagnosis needs {config.min_rows}",
            where="the corpus",
            fix="give more text, a smaller --context, or a larger --document-tokens",
        )
    tokens = torch.from_numpy(windows.tokens).long()
    return options, config, _Subject(network, tokens, counted=torch.from_numpy(~windows.special))


def _controls(subject: _Subject, seed: int, reporter: Any) -> "Iterator[Network]":
    """The network with random weights, three ways; made one at a time, where a diagnosis asks for them."""
    from polyseme.nulls import make_null

    for kind in ("gaussian_reinit", "spectrum_reinit", "permuted_weights"):
        yield make_null(kind, seed).network(subject.network, reporter)


def _site(network: "Network", name: str) -> None:
    """Refuse a missing or unknown site before any work."""
    if not name:
        names = network.site_names() or network.site_names(modules=True)
        shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        raise InputError("which site?", where="--site", fix=f"this network has {shown}")
    network.site(name)


def _untrained(where: str, fix: str) -> InputError:
    return InputError("the network did not train: its loss is above its known floor", where=where, fix=fix)


def _every_group() -> list[Group]:
    """The flags of every kind of network, for the help without one."""
    from polyseme.networks import NetworkConfig

    return [
        Group(TextOptions, title="a real network"),
        Group(NetworkConfig, prefix="network"),
        Group(ToyOptions, title="a toy by name"),
        Group(SavedOptions, title="a saved toy"),
    ]


def _parsed(args: list[str], source: str, groups: list[Group]) -> list[Any]:
    """Flags into the options, the diagnosis's config, and the configs of what is diagnosed."""
    from polyseme.cli.commands import parsed
    from polyseme.diagnosis import DiagnosisConfig
    from polyseme.store import check_writable

    about = (
        "Say why neurons of a site answer to several features, from the network and its data alone. NETWORK is pylm, a "
        f"folder, a hub name, a folder of `polyseme zoo train`, or {TOY}NAME, whose own settings are --toy.FIELD: "
        f"polyseme diagnose {TOY}superposition --help."
    )
    every = [Group(Options), *groups, Group(DiagnosisConfig, title="diagnosis")]
    usage = f"diagnose {source} --site SITE [--FIELD VALUE …]"
    options, *rest, config = parsed(args, every, f"diagnose {source}", usage, about)
    check_writable(options.out / "diagnosis.json")
    return [options, config, *rest]
