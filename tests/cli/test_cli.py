"""The command line as a new user meets it."""

import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import polyseme
from polyseme.cli.main import run
from tests.studies.small import small_config


def _toml(value: object) -> str:
    """Enough TOML for a study: JSON's scalars and arrays are TOML's, and tables can be inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, int | float) else '"' + str(value).replace("\\", "\\\\") + '"'


@pytest.fixture
def study_file(small_network: Path, small_corpus: Path, tmp_path: Path) -> Path:
    config = small_config(small_network, small_corpus, controls=[{"kind": "spectrum_reinit"}])
    text = "\n".join(f"{key} = {_toml(value)}" for key, value in config.items())
    tomllib.loads(text)
    path = tmp_path / "study.toml"
    path.write_text(text)
    return path


def test_a_study_runs_and_is_listed_and_shown(study_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = study_file.parent / "runs"
    flags = ["--root", str(root), "--dictionary.k", "3", "--name", "flagged"]
    assert run(["study", str(study_file), *flags]) == 0
    assert "report.html" in capsys.readouterr().out.replace("\n", "")
    (folder,) = root.glob("flagged-*")
    assert '"k": 3' in (folder / "config.json").read_text()
    assert run(["runs", "--root", str(root)]) == 0
    assert "complete" in capsys.readouterr().out
    assert run(["show", "flagged", "--root", str(root)]) == 0
    assert "All 64 latents are undecided" in capsys.readouterr().out
    assert run(["compare", "flagged", "flagged", "--root", str(root)]) == 0
    assert "no latent has a word in either run" in (out := capsys.readouterr().out)
    assert "every axis" in out
    assert run(["compare", "flagged", "--root", str(root)]) == 2
    assert "two runs are compared, and 1 is given" in capsys.readouterr().err
    assert run(["show", "flaged", "--root", str(root)]) == 2
    assert "flagged-" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["stduy"], "study"),
        (["study"], "FILE"),
        (["study", "missing.toml"], "missing.toml"),
        (["study", "--network.source", "/no/such/network"], "/no/such/network"),
        (["study", "--root", "x", "study.toml"], "before all flags"),
        (["study", "-"], "standard input"),
        (["help", "stduy"], "study"),
        (["runs", "--rot", "x"], "--root"),
        (["sites", "pylm", "--module"], "--modules"),
        (["calibrate", "extra"], "'extra' belongs to no flag"),
        (["demo", "study.toml"], "'study.toml' belongs to no flag"),
        (["calibrate", "--verdicts.alpha", "2"], "verdicts.alpha"),
        (["calibrate", "--n-networks", "0"], "n_networks"),
        (["zoo", "train", "hedging", "--seeds", "1", "-5"], "seeds.1"),
        (["zoo", "train", "hedgin"], "hedging"),
        (["zoo", "trian"], "train"),
        (["zoo", "recovery", "--toy.depth", "1000000"], "toy.depth"),
        (["demo", "--sites"], "sites"),
        (["demo", "--sites", "blocks.0.resid_pots"], "blocks.0.resid_post"),
        (["demo", "--seeds", "1", "1"], "twice"),
        (["runs", "--root", "/no/such/place"], "demo"),
        (["sites", "/no/such/network"], "/no/such/network"),
        (["show", "x", "--root", "/no/such/place"], "x"),
    ],
)
def test_bad_input_exits_2_and_says_what_and_the_fix(
    args: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", None)
    assert run(args) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "fix:" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name = ", "TOML"),
        ("nmae = 'x'", "name"),
        ("[tokens]\ntrain = 'many'", "tokens.train"),
        ("[[controls]]\nkind = 'gaussian_reinit'\nkeep_embedding = true", "keep_embeddings"),
        ("[dictionary]\narchitecture = 'topk'\nkk = 3", "dictionary.kk"),
    ],
)
def test_a_bad_study_file_is_named_with_the_nearest_key(
    text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    assert run(["study", str(path)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert str(path) in error


def test_sites_lists_the_names_a_study_takes(small_network: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sites", str(small_network)]) == 0
    out = capsys.readouterr().out
    assert "blocks.0.resid_post" in out
    assert "blocks.1.mlp_out" in out


def test_sites_of_a_network_that_gives_no_numbers_point_at_its_folder(
    small_network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(small_network, tmp_path / "network"))
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.1.mlp.c_fc.weight"].fill_(1e38)  # each of them finite, their products not
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert run(["sites", str(folder)]) == 2
    said, error = capsys.readouterr()
    assert not said
    assert "sites are not finite" in error
    assert f"where: {folder}" in error
    assert "config.json" in error
    assert "weights" in error


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    assert "demo" in out
    assert "study" in out
    assert run(["help"]) == 0
    assert capsys.readouterr().out == out
    assert run([]) == 2
    assert capsys.readouterr().out == out
    assert run(["--version"]) == 0
    version = capsys.readouterr().out
    assert run(["-V"]) == 0
    assert capsys.readouterr().out == version == f"{polyseme.__version__}\n"
    module = subprocess.run([sys.executable, "-m", "polyseme", "--version"], capture_output=True, text=True)
    assert (module.returncode, module.stdout) == (0, version)


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(study_file: Path) -> None:
    root = study_file.parent / "runs"
    command = [sys.executable, "-c", "import sys; from polyseme.cli import main; sys.exit(main())", "study"]
    command += [str(study_file), "--root", str(root), "--training.n-tokens", "150000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 120
    while not list(root.glob("objects/dictionaries-*.partial")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert "same command again" in error
    assert "Traceback" not in error
    (folder,) = root.glob("small-*")
    assert '"interrupted"' in (folder / "run.json").read_text()
    assert subprocess.run(command, capture_output=True, timeout=300, env=environment).returncode == 0
    assert '"complete"' in (folder / "run.json").read_text()


def test_importing_polyseme_is_light_and_does_nothing() -> None:
    code = (
        "import sys, polyseme; heavy = {'torch', 'transformers', 'scipy', 'rich'} & set(sys.modules);"
        "sys.exit(f'imports {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_sites_of_an_architecture_nobody_listed_are_its_module_paths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.networks.architectures import made

    model = made("opt")
    model.save_pretrained(tmp_path)
    passes: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        own = type(model).forward
        patch.setattr(type(model), "forward", lambda self, *a, **k: (passes.append(1), own(self, *a, **k))[1])
        assert run(["sites", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "OPTForCausalLM has no short names" in err
    widths = dict(line.split() for line in out.splitlines())
    assert widths["model.decoder.layers.1"] == "32"
    assert "lm_head" not in widths  # what the network returns
    assert "model.decoder.embed_positions" in widths
    assert len(passes) < 10  # one for all the sites, and a few to know what the network reads


@pytest.mark.parametrize("name", ["t5", "bart", "vit", "albert"])
def test_sites_of_any_network_are_listed(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.networks.architectures import made

    made(name).save_pretrained(tmp_path)
    assert run(["sites", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 5
