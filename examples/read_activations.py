"""Read what a network computes at some of its sites, with the tokens beside the vectors.

    python examples/read_activations.py [network] [text]

A network is `pylm`, which comes with polyseme, or a folder in the Hugging Face layout. `polyseme sites NETWORK` lists
its sites, and module paths (`transformer.h.2.mlp`) work for any network.
"""

import sys

import polyseme

source = sys.argv[1] if len(sys.argv) > 1 else "pylm"
text = sys.argv[2] if len(sys.argv) > 2 else "def add(a, b):\n    return a + b\n"

network = polyseme.load_network(source)
acts = network.read(text, ["blocks.0.resid_post", "blocks.1.mlp_out"])
print(acts)
print(acts.tokens)

# results are keyed by the site names that were given; each is [text, position, width]
x = acts["blocks.0.resid_post"]
for token, norm in zip(acts.tokens.texts[0], x[0].norm(dim=-1), strict=True):
    print(f"{norm:8.2f}  {token}")
