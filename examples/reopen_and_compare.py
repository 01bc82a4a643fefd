"""Open two finished studies again and put them side by side.

    python examples/reopen_and_compare.py RUN OTHER [folder of runs]

Without arguments it first runs two very small studies that differ in the sparsity of their dictionaries.
"""

import sys
import tempfile

import polyseme

FIELDS = {
    "network": {"source": "pylm", "device": "cpu"},
    "corpus": {"kind": "stdlib"},
    "sites": ["blocks.2.resid_post"],
    "seeds": [0],
    "tokens": {"train": 10_000, "heldout": 3_000, "heldout_document_tokens": 96, "splice": 1_000, "context": 96},
    "controls": [],
    "evaluation": {"n_resamples": 200, "lookup_tokens": 5_000, "n_continuations": 0},
    "causal": {"n_samples": 4},
}

if len(sys.argv) > 2:
    names, root = sys.argv[1:3], sys.argv[3] if len(sys.argv) > 3 else "runs"
else:
    names, root = ["sparse", "dense"], tempfile.mkdtemp()
    for name, k in zip(names, (4, 16), strict=True):
        dictionary = {"architecture": "topk", "n_latents": 128, "k": k}
        polyseme.study({**FIELDS, "name": name, "dictionary": dictionary}, root=root)

# nothing is computed again, and the network is not loaded
one, other = (polyseme.open_study(name, root) for name in names)
both = polyseme.compare(one, other)
print(both, "\n")
print(both.latents)
