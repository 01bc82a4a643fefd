"""Study files of strangers: whatever is in them, one sentence with the fix, in bounded memory."""

import io
import os
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from polyseme.core import validation
from polyseme.core.errors import InputError
from polyseme.studies.config import StudyConfig
from polyseme.studies.toml import MAX_BYTES, MAX_KEYS, load_config, parse_toml

GOOD = 'name = "a"\nseeds = [3, 4]\n[training]\nlr = 0.001\n'


def refused(path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        load_config(path, StudyConfig)
    assert caught.value.fix
    assert caught.value.where
    assert len(str(caught.value)) < 2500
    assert "\n" not in caught.value.what
    return caught.value


@pytest.fixture
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * 2**20


NESTED = "tables are nested more than"


@pytest.mark.parametrize(
    "text",
    [
        ".".join(["a"] * 20_000) + " = 1",
        " . ".join(["'a'"] * 9_000) + " = 1",
        'x = """a"""", ' + ".".join(["a"] * 20_000) + " = 1",
        "x = { " + ".".join(["a"] * 20_000) + " = 1 }",
        "[" + ".".join(["a"] * 20_000) + "]\nb = 1",
        "x = " + "[" * 900 + "]" * 900,
        "x = " + "[" * 100_000,
        "x = [\n" * 900 + "]\n" * 900,
        "x = " + "{a = " * 3_000 + "1" + "}" * 3_000,
        "x = " + "{a = [" * 1_000 + "]}" * 1_000,
    ],
)
@pytest.mark.usefixtures("little_memory")
def test_what_is_nested_deeply_is_refused_in_little_memory(text: str, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(text)
    assert NESTED in refused(path).what


@pytest.mark.parametrize(
    ("text", "says"),
    [
        # Size.
        ("".join(f"k{i} = 1\n" for i in range(MAX_KEYS + 1)), "keys are more than"),
        ("".join(f"[t{i}]\nk = 1\n" for i in range(MAX_KEYS + 1)), "keys are more than"),
        ("".join(f"k{i} = 1\n" for i in range(1_900)), "and 1,894 more"),
        ("k" * 500_000 + " = 1", "unknown key"),
        ("name = '" + "x" * 900_000 + "'", "is no setting"),
        ("name = '" + "x" * 5_000 + "'", "at most 64 characters"),
        ("seeds = [" + "1, " * 300_000 + "]", "at most 250,000 values"),
        ("seeds = [" + "1, " * 1_000 + "]", "at most 100 items"),
        ("#" * MAX_BYTES + "\n", "larger than 1 MiB"),
        # Numbers.
        ("shown = " + "1" * 5_000, "4,300 digits"),
        ("shown = " + "1" * 4_000, "less than or equal to 10000"),
        ("shown = 0x" + "f" * 100_000, "less than or equal to 10000"),
        ("shown = -0b" + "1" * 100, "not valid TOML"),
        ("[training]\nlr = inf", "training.lr: must be a finite number"),
        ("[training]\nlr = -nan", "training.lr: must be a finite number"),
        ("[training]\nlr = 1e999", "training.lr: must be a finite number"),
        ("[training]\ndead_after = 1180591620717411303424", "training.dead_after: must be less"),
        ("[training]\nlr = true", "training.lr: must be a number"),
        ("seeds = [0, true]", "seeds.1: must be a number"),
        ("[dictionary]\narchitecture = 'topk'\nn_latents = 1_000_000_000", "dictionary.n_latents: must be less"),
        ("[dictionary]\narchitecture = 'topk'\nn_latents = 9223372036854775808", "dictionary.n_latents: must be less"),
        ("[causal]\nn_samples = -1", "causal.n_samples: must be greater"),
        ("[causal]\nn_samples = 9223372036854775808", "causal.n_samples: must be less"),
        ("[causal]\nn_resamples = 0", "causal.n_resamples: must be greater"),
        ("[evaluation]\nn_resamples = 1_000_000_000", "evaluation.n_resamples: must be less"),
        ("[verdicts]\nalpha = -1", "verdicts.alpha: must be greater"),
        ("[verdicts]\nalpha = 1e300", "verdicts.alpha: must be less"),
        ("[verdicts]\nmin_documents = -1", "verdicts.min_documents: must be greater"),
        ("[network]\ndevice = 'meta'", "network.device"),
        ("[network]\nsource = '" + "x" * 5_000 + "'", "network.source: "),
        ("[corpus]\nkind = 'text'\npaths = ['" + "x" * 5_000 + "']", "a path has at most 4096 characters"),
        ('[corpus]\nkind = "text"\npaths = ["a\\u0000b"]', "a path holds no NUL"),
        # Other types.
        ("name = 1979-05-27", "name: must be a valid string"),
        ("shown = 07:32:00", "shown: must be a valid integer"),
        ("sites = 'blocks.0.resid_post'", "sites: must be a list"),
        ("sites = {a = 1}", "sites: must be a list"),
        ("network = 3", "network: must be"),
        ("[name]\nx = 1", "name: must be a valid string"),
        ("[[network]]\nsource = 'pylm'", "network: must be"),
        ("controls = ['gaussian_reinit']", "controls.0: must be"),
        ("[corpus]\nkind = 'jsnl'", "corpus.kind: there is no 'jsnl' (nearest: jsonl;"),
        ("[corpus]\nkind = '" + "x" * 50_000 + "'", "corpus.kind: there is no 'xxx"),
        ("[corpus]\npaths = []", "corpus.kind is missing: one of stdlib, text"),
        ("[[controls]]\nseed = 1", "controls.0.kind is missing: one of gaussian_reinit"),
        ("[null]\nseed = 1", "null.kind is missing"),
        # Not TOML.
        ("name = 'a'\r\rseeds = [1]", "not valid TOML"),
        ("name = 'a\0b'", "not valid TOML"),
        ("name = ", "not valid TOML"),
        ("name = 'a'\nname = 'b'", "not valid TOML"),
        ("x" * 10_000, "not valid TOML"),
        ('x = """' + '""' * 10_000, "not valid TOML"),
        ("x = " + '"' * 99_999, "not valid TOML"),
        ("", "sets no field"),
        ("# only a comment\n\n", "sets no field"),
    ],
)
def test_a_bad_text_is_one_sentence(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(text.encode())
    assert says in refused(path).what


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (GOOD.encode("utf-16"), "UTF-16"),
        (GOOD.encode("utf-16-le"), "UTF-16"),
        (GOOD.encode("utf-16-be"), "UTF-16"),
        (GOOD.encode("utf-32"), "UTF-16 or UTF-32"),
        (GOOD.encode() + b"# caf\xe9\n", "line 5 is not UTF-8"),
        (b"\xff" * 10, "line 1 is not UTF-8"),
        (b"\x00" * 4096, "UTF-16"),
        (b"\x7fELF" + b"\x00" * 4096, "not valid TOML"),
    ],
)
def test_bytes_that_are_no_utf8_are_named(data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(data)
    assert says in refused(path).what


@pytest.mark.parametrize("data", [GOOD.encode(), GOOD.encode("utf-8-sig"), GOOD.replace("\n", "\r\n").encode()])
def test_a_good_file_is_read_with_a_mark_in_front_and_with_the_line_ends_of_windows(
    data: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(data)
    config = load_config(path, StudyConfig)
    assert (config.name, config.seeds, config.training.lr) == ("a", (3, 4), 0.001)


def test_brackets_and_dots_in_strings_and_comments_are_text() -> None:
    many = "[" * 50 + "." * 50
    text = f"""
    # {many} "
    name = "a" # {many} '''
    a = "{many}\\\\\\"{many}"
    b = '{many}"'
    c = \"\"\"{many}\n{many}\\\"\"\"{many}" \"\" {many}\"\"\"\"\"
    d = '''{many}\n{many}'' {many}'''''
    version = "1.2.3.4"
    pi = [3.14, 2.72, 1.41, 1979-05-27T07:32:00.5, {", ".join(["0.5"] * 40)}]
    """
    assert set(parse_toml(text, "here")) == {"name", "a", "b", "c", "d", "version", "pi"}


def test_a_path_that_is_no_file_is_refused_without_being_opened(tmp_path: Path) -> None:
    (tmp_path / "studies.toml").write_text(GOOD)
    os.mkfifo(tmp_path / "pipe.toml")
    huge = tmp_path / "huge.toml"
    with huge.open("wb") as file:
        file.truncate(10 * 2**30)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert "device or a pipe" in refused(tmp_path / "pipe.toml").what
    assert "device or a pipe" in refused(Path("/dev/zero")).what
    assert "this is a folder" in refused(tmp_path).what
    assert "larger than 1 MiB" in refused(huge).what
    assert "no such" in refused(tmp_path / "gone").what
    refused(tmp_path / "loop")
    refused(tmp_path / "studies.toml" / "x")
    refused(tmp_path / ("x" * 5000))
    refused(Path("a\0b"))
    refused(Path("/proc/self/mem"))
    assert (refused(tmp_path / "study.toml").fix or "").startswith("did you mean studies.toml")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_one_may_not_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(GOOD)
    path.chmod(0)
    assert "does not allow" in refused(path).what


def test_a_dash_reads_standard_input_and_never_waits_for_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(GOOD.encode())))
    assert load_config(Path("-"), StudyConfig).name == "a"

    class Terminal(io.BytesIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Terminal()))
    assert "terminal" in refused(Path("-")).what
    monkeypatch.setattr(sys, "stdin", None)
    refused(Path("-"))


def test_thousands_of_unknown_keys_cost_a_handful_of_searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[str] = []
    real = validation.nearest_names
    monkeypatch.setattr(validation, "nearest_names", lambda name, known: searched.append(name) or real(name, known))
    path = tmp_path / "study.toml"
    path.write_text("".join(f"tokns{i} = 1\n" for i in range(1_500)))
    assert "unknown key 'tokns0' (nearest: tokens" in refused(path).what
    assert len(searched) <= validation.MAX_PROBLEMS
