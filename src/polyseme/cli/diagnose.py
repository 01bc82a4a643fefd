"""`polyseme diagnose`: why the neurons of a site are polysemantic, of a saved toy, a toy by name, or a real network."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from polyseme.cli.flags import Group
from polyseme.cli.line import Line
from polyseme.core.config import Config, Count, FilePath, FilePaths, Width
from polyseme.core.errors import InputError
from polyseme.core.seeds import make_generator
from polyseme.corpora import StdlibCorpusConfig, TextCorpusConfig, load_windows
from polyseme.diagnosis import DiagnosisConfig
from polyseme.diagnosis import diagnose as run
from polyseme.networks import Network, NetworkConfig, load_network
from polyseme.nulls import make_null
from polyseme.report.diagnosis import print_diagnosis
from polyseme.screen.console import make_console
from polyseme.screen.progress import ClosableReporter, make_reporter
from polyseme.store import check_writable, save_json
from polyseme.zoo.running import load_toy, read_toy, saved_inputs, toy_named

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
    """Most siblings looked at; without any, a diagnosis never answers `incidental`."""


class SavedOptions(Config):
    """What stands beside a network of `polyseme zoo train`."""

    siblings: int = Field(default=8, ge=0, le=1000)
    """Most siblings looked at: networks saved beside this one, of other seeds and the same setting."""


class TextOptions(Config):
    """The text that a real network reads."""

    windows: Width = 320
    """Most windows of text that are read, each one a row of the data."""
    text: FilePaths = ()
    """Text files, and folders of .txt files, which are read whole; by default the part of Python's standard library
    that pylm was not trained on."""
    context: int = Field(default=64, ge=2, le=2**20)
    """Tokens in a window."""
    document_tokens: Count = 128
    """Most tokens of one document: many short stretches tell more than a few long ones."""


@dataclass(frozen=True)
class _Subject:
    """A network and its data, which are all that a diagnosis sees, and how it is made."""

    options: Options
    config: DiagnosisConfig
    network: Network
    inputs: Tensor
    siblings: Sequence[Network] = ()
    counted: Tensor | None = None


def diagnose(line: Line) -> int:
    """Diagnose a site, print the answer with its evidence, and keep both."""
    source = line.first
    if not source:  # the flags of every kind of network, for the help
        text, network = Group(TextOptions, title="a real network"), Group(NetworkConfig, prefix="network")
        toy, saved = Group(ToyOptions, title="a toy by name"), Group(SavedOptions, title="a saved toy")
        _configs(line, text, network, toy, saved)
    reporter = make_reporter()
    if source.startswith(TOY):
        subject = _toy(line, reporter)
    elif (Path(source) / "toy.json").is_file():
        subject = _saved(line)
    else:
        subject = _real(line, reporter)
    config, network = subject.config, subject.network
    nulls = (make_null(kind, config.seed) for kind in ("gaussian_reinit", "spectrum_reinit", "permuted_weights"))
    found = run(
        network,
        subject.options.site,
        subject.inputs,
        config,
        reporter,
        siblings=subject.siblings,
        controls=(null.network(network, reporter) for null in nulls),  # one at a time, where it asks for them
        counted=subject.counted,
    )
    about = {
        "network": source,
        "fingerprint": network.fingerprint,
        "siblings": len(subject.siblings),
        "config": config.model_dump(mode="json"),
    }
    path = subject.options.out / "diagnosis.json"
    save_json(path, {**about, **found.model_dump(mode="json")})
    reporter.close()
    print_diagnosis(found, console=make_console())
    print(f"\nwritten to {path}")
    return 0


def _configs(line: Line, *groups: Group) -> list[Any]:
    """The options, the diagnosis's config, and the configs of what is diagnosed."""
    options, *rest, config = line.configs(Group(Options), *groups, Group(DiagnosisConfig, title="diagnosis"))
    check_writable(options.out / "diagnosis.json")
    return [options, config, *rest]


def _toy(line: Line, reporter: ClosableReporter) -> _Subject:
    """A toy by name: trained here, one network diagnosed, the others of its setting its siblings."""
    kind = toy_named(line.first.removeprefix(TOY)).config
    seeds = kind.model_fields.get("seeds")
    few = {"seeds": list(range(N_TRAINED))} if seeds is not None and len(seeds.default or ()) > N_TRAINED else {}
    groups = Group(ToyOptions, title="a toy by name"), Group(kind, prefix="toy", given=few)
    options, config, of_toy, toy = _configs(line, *groups)
    _site(load_network(toy.build()), options.site)  # before the training
    networks = toy.train(reporter)
    if of_toy.index >= len(networks):
        what = f"the toy has {len(networks)} networks and none of index {of_toy.index}"
        raise InputError(what, where="--index", fix=f"give one of 0 to {len(networks) - 1}")
    chosen = networks[of_toy.index]
    if not chosen.trained:
        raise _untrained(f"{line.first}, network {of_toy.index}", "train it longer, or take another with --index")
    inputs = chosen.draw(config.max_rows, make_generator(config.seed, "diagnose", "inputs")).inputs
    alike = [t for t in networks if t.setting == chosen.setting and t.seed != chosen.seed and t.trained]
    siblings = [t.network() for t in alike[: of_toy.siblings]]
    return _Subject(options, config, chosen.network(), inputs, siblings)


def _saved(line: Line) -> _Subject:
    """A toy saved by `polyseme zoo train`, with the rows of data saved beside it."""
    folder = Path(line.first)
    options, config, saved = _configs(line, Group(SavedOptions, title="a saved toy"))
    about = read_toy(folder)
    if not about.trained:
        raise _untrained(str(folder), "train it longer, or take another of the networks beside it")
    inputs = saved_inputs(folder)
    network = load_network(load_toy(folder)[0], example_inputs=inputs[:2])
    _site(network, options.site)

    def is_sibling(path: Path) -> bool:
        other = read_toy(path)
        same = (other.toy, other.config, other.setting) == (about.toy, about.config, about.setting)
        return same and other.seed != about.seed and other.trained

    beside = [path.parent for path in folder.absolute().parent.glob("*/toy.json")]
    alike = filter(is_sibling, sorted(beside, key=lambda path: (len(path.name), path.name)))
    siblings = [load_network(load_toy(p)[0], example_inputs=inputs[:2]) for p in islice(alike, saved.siblings)]
    return _Subject(options, config, network, inputs, siblings)


def _real(line: Line, reporter: ClosableReporter) -> _Subject:
    """A real network and a corpus: its vectors are looked at without any variables of the data."""
    source = line.first
    groups = Group(TextOptions, title="text"), Group(NetworkConfig, prefix="network", given={"source": source})
    options, config, of_text, network_config = _configs(line, *groups)
    if network_config.source != source:
        raise InputError("two networks are named", where="NETWORK and --network.source", fix="leave the flag out")
    if of_text.windows < config.min_rows:
        what = f"{of_text.windows} windows are fewer than the {config.min_rows} rows that a diagnosis needs"
        raise InputError(what, where="--windows", fix=f"give at least {config.min_rows}")
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
    if network.context and of_text.context > network.context:
        what = f"a context of {of_text.context} is longer than the network's {network.context}"
        raise InputError(what, where="--context", fix=f"give {min(64, network.context)}")
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
    tokens, counted = torch.from_numpy(windows.tokens).long(), torch.from_numpy(~windows.special)
    return _Subject(options, config, network, tokens, counted=counted)


def _site(network: Network, name: str) -> None:
    """Refuse a missing or unknown site before any work."""
    if not name:
        names = network.site_names() or network.site_names(modules=True)
        shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        raise InputError("which site?", where="--site", fix=f"this network has {shown}")
    network.site(name)


def _untrained(where: str, fix: str) -> InputError:
    return InputError("the network did not train: its loss is above its known floor", where=where, fix=fix)
