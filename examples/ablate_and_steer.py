"""Ablate one latent of a network, or steer with it, and compare how the text continues.

    python examples/ablate_and_steer.py [dictionary folder]

Without a folder it trains a small dictionary first (about ten seconds).
"""

import sys

import polyseme

site = "blocks.2.resid_post"
prompt = "import os\n\ndef read(path):\n    "
network = polyseme.load_network("pylm")
if len(sys.argv) > 1:
    dictionary = polyseme.load_dictionary(sys.argv[1])
else:
    config = polyseme.TopKConfig(n_latents=1024, k=16)
    dictionary = polyseme.train(network, config, site=site, text={"kind": "stdlib"}, n_tokens=20_000).dictionary

# the latent that is strongest on the last token of the prompt
acts = network.read(prompt, [site])
z = dictionary.encode(acts[site]).dense()
latent = int(z[0, -1].argmax())
print(f"latent {latent}, activation {z[0, -1, latent]:.1f} at {acts.tokens.texts[0][-1]!r}\n")

print(polyseme.continue_text(network, prompt, {site: polyseme.ablate(dictionary, latent)}), "\n")
print(polyseme.continue_text(network, prompt, {site: polyseme.steer(dictionary, latent, 100)}))
