"""Flags say what a study file says: the same fields, the same values, the same errors; and help shows all of them."""

import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel, Field

from polyseme.cli.flags import Group, fields_below, parse
from polyseme.cli.help import rendered, sections_of, show_help
from polyseme.cli.line import Line
from polyseme.cli.main import run
from polyseme.cli.runs import RootOptions
from polyseme.cli.table import COMMANDS
from polyseme.core.binding import BindingConfig, Bound
from polyseme.core.config import Config
from polyseme.core.errors import InputError
from polyseme.core.validation import validate_config
from polyseme.corpora import CORPORA
from polyseme.dictionaries import ARCHITECTURES
from polyseme.nulls import NullConfig, kind_of
from polyseme.studies.config import StudyConfig
from polyseme.zoo import TOYS

FILE = """
name = "filed"
seeds = [7]
[dictionary]
architecture = "topk"
n_latents = 64
k = 4
selection = "fp32"
[tokens]
context = 32
[evaluation]
n_continuations = 0
[[controls]]
kind = "gaussian_reinit"
keep_embeddings = true
"""


def study(*args: str, given: str = "") -> StudyConfig:
    groups = [Group(RootOptions), Group(StudyConfig, given=tomllib.loads(given))]
    return parse(args, groups, "polyseme study")[1]


@pytest.mark.parametrize(
    ("args", "toml"),
    [
        (["--name", "a"], 'name = "a"'),
        (["--name=a=b-c"], None),
        (["--name=a-b"], 'name = "a-b"'),
        (["--seeds", "1", "2", "--name", "x"], 'seeds = [1, 2]\nname = "x"'),
        (["--seeds", "1", "--seeds", "2"], "seeds = [1, 2]"),
        (["--seeds=1", "--seeds=2"], "seeds = [1, 2]"),
        (["--training.n-tokens", "1_000"], "[training]\nn_tokens = 1000"),
        (["--training.n_tokens", "4e6"], "[training]\nn_tokens = 4e6"),
        (["--training.lr", "1e-3", "--training.clip", "none"], "[training]\nlr = 1e-3"),
        (["--tokens.allow-fewer"], "[tokens]\nallow_fewer = true"),
        (["--tokens.allow-fewer", "--name", "x"], 'name = "x"\n[tokens]\nallow_fewer = true'),
        (["--tokens.allow-fewer=true"], "[tokens]\nallow_fewer = true"),
        (["--tokens.no-allow-fewer"], "[tokens]\nallow_fewer = false"),
        (["--no-tokens.allow-fewer"], "[tokens]\nallow_fewer = false"),
        (["--harvest.prefetch", "false"], "[harvest]\nprefetch = false"),
        (["--dictionary", "jumprelu"], '[dictionary]\narchitecture = "jumprelu"'),
        (["--dictionary.architecture", "gated"], '[dictionary]\narchitecture = "gated"'),
        (["--dictionary.k", "3"], '[dictionary]\narchitecture = "topk"\nk = 3'),
        (
            ["--dictionary.n-latents", "512", "--dictionary", "batch_topk", "--dictionary.k", "2.5"],
            '[dictionary]\narchitecture = "batch_topk"\nn_latents = 512\nk = 2.5',
        ),
        (
            ["--dictionary", '{architecture = "topk", k = 5}', "--dictionary.n-latents", "9"],
            '[dictionary]\narchitecture = "topk"\nk = 5\nn_latents = 9',
        ),
        (
            ["--corpus.kind", "jsonl", "--corpus.paths", "a b", "c"],
            '[corpus]\nkind = "jsonl"\npaths = ["a b", "c"]',
        ),
        (["--corpus.paths", "é", "--corpus", "text"], '[corpus]\nkind = "text"\npaths = ["é"]'),
        (
            ["--controls", "spectrum_reinit", "shuffled_tokens"],
            '[[controls]]\nkind = "spectrum_reinit"\n[[controls]]\nkind = "shuffled_tokens"',
        ),
        (
            ["--controls", '{kind = "spectrum_reinit", seed = 3}', "--controls", "unigram_tokens"],
            '[[controls]]\nkind = "spectrum_reinit"\nseed = 3\n[[controls]]\nkind = "unigram_tokens"',
        ),
        (["--controls", "none"], "controls = []"),
        (["--null", "spectrum_reinit"], '[null]\nkind = "spectrum_reinit"'),
        (["--null", '{kind = "spectrum_reinit"}'], '[null]\nkind = "spectrum_reinit"'),
        (["--null", "none"], ""),
        (["--verdicts.alpha", ".01"], "[verdicts]\nalpha = 0.01"),
    ],
)
def test_a_flag_is_what_the_file_says(args: list[str], toml: str | None) -> None:
    if toml is None:
        with pytest.raises(InputError, match="name"):
            study(*args)
        return
    expected = tomllib.loads(toml)
    if "--training.clip" in args:
        expected["training"]["clip"] = None
    assert study(*args) == StudyConfig.model_validate(expected)


def test_flags_are_laid_over_a_file() -> None:
    made = study("--name", "flagged", "--dictionary.k", "2", "--tokens.context", "none", given=FILE)
    assert (made.name, made.seeds, made.dictionary.n_latents, made.dictionary.k) == ("flagged", (7,), 64, 2)
    assert made.dictionary.selection == "fp32"
    assert made.tokens.context is None
    assert [c.name for c in made.controls] == ["gaussian_reinit_keep_embeddings"]
    assert study("--controls", "none", given=FILE).controls == ()
    assert [c.name for c in study("--controls", "unigram_tokens", given=FILE).controls] == ["unigram_tokens"]


def test_another_choice_keeps_the_fields_that_it_has() -> None:
    made = study("--dictionary", "jumprelu", given=FILE)
    assert (made.dictionary.architecture, made.dictionary.n_latents) == ("jumprelu", 64)
    made = study("--dictionary", "matryoshka", given=FILE)
    assert (made.dictionary.k, made.dictionary.selection) == (4, "fp32")


def test_a_table_that_no_file_names_starts_from_the_default_of_its_place() -> None:
    kind = TOYS["superposition"].config
    made = parse(["--optimiser.steps", "3"], [Group(kind)], "x")[0]
    assert (made.optimiser.steps, made.optimiser.lr) == (3, kind().optimiser.lr)
    assert kind().optimiser.lr != type(kind().optimiser)().lr


@pytest.mark.parametrize(
    ("args", "what", "fix"),
    [
        (["--nmae", "x"], "no flag '--nmae'", "--name"),
        (["--k", "3"], "no flag '--k'", "polyseme study --help"),
        (["--training.n-token", "3"], "no flag", "--training.n-tokens"),
        (["--network.downlod"], "no flag", "--network.download"),
        (["-name", "x"], "no flag '-name'", "--name"),
        (["--no-name"], "no flag '--no-name'", "--name"),
        (["--"], "no flag '--'", "--help"),
        (["--sites"], "--sites lacks its value", "--sites VALUE"),
        (["--sites", "--name", "x"], "--sites lacks its value", "--sites VALUE"),
        (["--sites="], "sites.0: String should have at least 1 character", "--help"),
        (["--name", "a", "--name", "b"], "--name is given twice", "leave"),
        (["--dictionary", "topk", "--dictionary.architecture", "gated"], "given twice", "leave"),
        (["--tokens.allow-fewer", "--tokens.no-allow-fewer"], "given twice", "leave"),
        (["--name", "a", "b"], "'b' belongs to no flag", "--name=VALUE"),
        (["extra"], "'extra' belongs to no flag", "--name VALUE"),
        (["--training.lr", "inf"], "training.lr: must be a finite number", "--help"),
        (["--training.lr", "-nan"], "training.lr: must be a finite number", "--help"),
        (["--training.lr", "-1"], "training.lr: must be greater than 0 (given: -1)", "--help"),
        (["--training.lr=-1e-3"], "training.lr: must be greater than 0", "--help"),
        (["--training.lr", "true"], "training.lr: must be a valid number", "--help"),
        (["--training", "3"], "--training is a table", "--training.n-tokens"),
        (["--seeds", "a"], "seeds.0: must be a valid integer", "--help"),
        (["--seeds", "9223372036854775808"], "seeds.0: must be less", "--help"),
        (["--seeds", "1" * 5_000], "seeds.0: must be", "--help"),
        (["--seeds", "1", "1"], "twice", "--help"),
        (["--shown", "3.5"], "shown: must be a valid integer", "--help"),
        (["--name", "\udcff"], "name: ", "--help"),
        (["--corpus.paths", "a"], "corpus.kind is missing: one of stdlib, text", "--help"),
        (["--corpus", "jsonl"], "corpus.paths is missing", "--help"),
        (["--corpus", "jsnl"], "corpus.kind: there is no 'jsnl' (nearest: jsonl", "--help"),
        (["--dictionary", "jumprelu", "--dictionary.k", "3"], "unknown key 'dictionary.k'", "--help"),
        (["--controls", "gausian"], "controls.0.kind: there is no 'gausian'", "--help"),
        (["--controls", "{kind = }"], "not valid TOML", "line"),
        (["--controls", "{a" + ".a" * 9_000 + " = 1}"], "nested", ""),
        (["--controls", "unigram_tokens", "unigram_tokens"], "unigram_tokens more than once: remove one", "--help"),
        (["--network.device", "meta"], "network.device", "--help"),
        (["--null.seed", "3"], "null.kind is missing", "--help"),
        (["--name", "x" * 100_000], "name: ", "--help"),
        (["--" + "x" * 100_000], "no flag", "--help"),
    ],
)
def test_a_bad_flag_is_one_sentence_with_the_fix(args: list[str], what: str, fix: str) -> None:
    with pytest.raises(InputError) as caught:
        study(*args)
    assert what in caught.value.what
    assert fix in (caught.value.fix or "")
    assert caught.value.where
    assert len(str(caught.value)) < 1500


def test_what_is_wrong_in_a_file_and_the_flags_names_both() -> None:
    groups = [Group(StudyConfig, given={"nmae": 1}, source="my.toml")]
    with pytest.raises(InputError) as caught:
        parse(["--shown", "3"], groups, "polyseme study")
    assert caught.value.where == "my.toml and the flags"
    with pytest.raises(InputError) as caught:
        parse([], groups, "polyseme study")
    assert caught.value.where == "my.toml"


def test_every_field_of_every_choice_is_a_flag_that_takes_its_default() -> None:
    made = 0
    for path, kind in fields_below(StudyConfig):
        flag = "--" + ".".join(path).replace("_", "-")
        choice = _choice_of(path, kind.name)
        default = kind.default
        if kind.required or kind.tables or isinstance(default, BaseModel) or path[-1] in ("kind", "architecture"):
            continue
        values = [str(each) for each in default] if isinstance(default, tuple) else [str(default)]
        parsed = study(*choice, flag, *values) if path[0] != "tokens" or path[1] != "transform" else None
        made += parsed is not None
    assert made > 50


def _choice_of(path: tuple[str, ...], name: str) -> list[str]:
    """Flags that make the choices under which a field exists."""
    if path[0] == "null":
        return ["--null.kind", "spectrum_reinit"] if name != "kind" else []
    table = {"corpus": CORPORA, "dictionary": ARCHITECTURES}.get(path[0])
    if table is None or len(path) == 1:
        return []
    word = next(word for word, model in table.items() if name in model.model_fields)
    out = [f"--{path[0]}", word]
    for other in ("paths", "name"):
        if other in table[word].model_fields and other != name:
            out += [f"--{path[0]}.{other}", "x"]
    return out


HELPED = [
    ["study"],
    ["demo"],
    ["runs"],
    ["show"],
    ["compare"],
    ["sites"],
    ["info"],
    ["calibrate"],
    ["diagnose"],
    ["diagnose", "toy:superposition"],
    ["zoo", "train"],
    ["zoo", "train", "hedging"],
    ["zoo", "check", "superposition"],
    ["zoo", "figures", "superposition"],
    ["zoo", "recovery"],
    ["plan"],
    ["stage"],
    ["zoo", "confusion"],
    ["zoo", "dose"],
    ["zoo", "check"],
    ["zoo", "figures"],
    ["zoo", "list"],
    ["zoo"],
    [],
]


@pytest.mark.parametrize("columns", [40, 80, 120, 400])
@pytest.mark.parametrize("command", HELPED, ids=" ".join)
def test_help_fits_the_terminal(
    command: list[str], columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert run([*command, "--help"]) == 0
    out = capsys.readouterr().out
    assert " ".join(["usage: polyseme", *command[:1]]) in out
    assert out.startswith("usage: ") or command in ([], ["zoo"])
    assert "--" in out
    for line in out.splitlines():
        words = line.split()
        assert len(line) <= min(columns, 120) or len(words) <= 2, line  # a single long flag cannot be broken
    assert "None)" not in out
    assert "PydanticUndefined" not in out


def test_the_help_of_every_command_is_tried() -> None:
    assert {" ".join(command) for command in HELPED} > set(COMMANDS)


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if command.run])
def test_a_command_takes_the_words_that_its_usage_names(name: str) -> None:
    needed = {"stage": "ID", "show": "RUN", "compare": "RUN", "sites": "NETWORK", "diagnose": "NETWORK"}
    needed |= {"zoo train": "NAME", "zoo figures": "NAME"}
    optional = {"study": "FILE", "plan": "FILE", "zoo check": "NAME"}
    word = needed.get(name) or optional.get(name, "")
    assert COMMANDS[name].word == word
    if word:
        with pytest.raises(InputError, match=f"{word} is missing"):
            Line.of(name, [])
    else:
        assert Line.of(name, []) == Line(name, (), ())  # what it does without any flag
    found = Line.of(name, ["a", "b", "--root", "c"])
    words = 2 if name in ("stage", "compare") else 1 if word else 0
    assert found == Line(name, ("a", "b")[:words], ("a", "b", "--root", "c")[words:])


def test_the_help_of_a_study_shows_every_choice_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["study", "--help"]) == 0
    out = capsys.readouterr().out
    for table, name in ((CORPORA, "corpus"), (ARCHITECTURES, "dictionary")):
        for word, model in table.items():
            section = re.search(rf"^  {name} = {word}:(.*?)(?=^  {name} = |^\w)", out, re.S | re.M)
            assert section, word
            shared = re.search(rf"^{name}:(.*?)(?=^  {name} = )", out, re.S | re.M)
            assert shared
            for field in model.model_fields:
                flag = f"--{name}.{field}".replace("_", "-")
                assert flag in section[1] + shared[1] or field in ("kind", "architecture"), flag
    for null in get_args(get_args(NullConfig)[0]):
        assert f"controls = {kind_of(null)}:" in out
    for path, kind in fields_below(StudyConfig):
        flag = "--" + ".".join(path).replace("_", "-")
        assert flag in out or path[-1] in ("kind", "architecture") or kind.tables, flag


def test_help_of_one_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["study", "--help", "training"]) == 0
    out = capsys.readouterr().out
    assert "--training.lr" in out
    assert "--network.source" not in out
    assert run(["help", "study", "dictionary"]) == 0
    assert "dictionary = gated" in capsys.readouterr().out
    assert run(["study", "--help", "trainig"]) == 2
    assert "training" in capsys.readouterr().err


def test_help_shows_the_defaults_of_the_place_and_of_the_file() -> None:
    text = rendered(list(sections_of(Group(TOYS["superposition"].config))), 100)
    assert re.search(r"--optimiser.lr NUMBER +\(default: 0.005\)", text)
    text = rendered(list(sections_of(Group(StudyConfig, given=tomllib.loads(FILE)))), 100)
    assert "(default: filed)" in text
    assert re.search(r"\(default:\s+gaussian_reinit\)", text)
    assert re.search(r"--dictionary.k INT .*?\(default: 4\)", text, re.S)


def test_a_value_given_as_a_config_is_checked_like_any(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"toy\.seeds"):
        parse(["--toy.seeds", "-1"], [Group(TOYS["hedging"].config, prefix="toy")], "x")
    with pytest.raises(InputError, match=r"toy\.training"):
        validate_config({"training": {"stps": 1}}, TOYS["hedging"].config, where="here", prefix="toy")


def test_unknown_sections_are_refused_without_printing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError):
        show_help(["--help", "x" * 5_000], [Group(RootOptions)], "polyseme x", "about")
    with pytest.raises(InputError, match=r"the sections are options, network, .*, verdicts"):
        show_help(["--help", "dictionaries"], [Group(RootOptions), Group(StudyConfig)], "polyseme x", "about")
    assert capsys.readouterr().out == ""


class Bindings(Config):
    """Several."""

    sites: tuple[Bound, ...] = Field(default=("a",), max_length=10)
    """Where."""


def test_a_name_or_a_table_may_stand_in_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    group = Group(Bindings, title="bindings")
    [made] = parse(["--sites", "a", '{reads = "a", writes = "b"}'], [group], "polyseme x")
    assert made == Bindings(sites=("a", BindingConfig(reads=("a",), writes=("b",))))
    show_help(["--help"], [group], "polyseme x", "About.")
    shown = capsys.readouterr().out
    for part in ("--sites TEXT", "reads = TEXT …", "Sites it writes"):
        assert part in shown
