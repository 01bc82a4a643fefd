"""Run a study from a study file, and look at what it found.

    python examples/study_from_file.py [study.toml]

Without a file it runs a very small study of pylm (under a minute); its results are kept in a temporary folder.
"""

import sys
import tempfile
from pathlib import Path

import polyseme

STUDY = """
name = "example"
sites = ["blocks.2.resid_post"]
network = { source = "pylm", device = "cpu" }
corpus = { kind = "stdlib" }
tokens = { train = 20_000, heldout = 6_000, heldout_document_tokens = 96, splice = 2_000, context = 96 }
dictionary = { architecture = "topk", n_latents = 128, k = 8 }
controls = [{ kind = "gaussian_reinit" }]
evaluation = { n_resamples = 200, lookup_tokens = 10_000, n_continuations = 0 }
evidence = "quick"
"""

folder = Path(tempfile.mkdtemp())
file = Path(sys.argv[1]) if len(sys.argv) > 1 else folder / "study.toml"
if len(sys.argv) == 1:
    file.write_text(STUDY)

result = polyseme.study(file, root=folder / "runs")
print(result, "\n")
print(result.latents(), "\n")

# the first latent that the report shows, with its contexts
for latent in result.shown()[:1]:
    print(latent)
