"""Measure what a language model loses when a dictionary's reconstruction replaces its own vectors.

    python examples/splice_loss.py

A loss means little alone. It is printed beside the loss without the dictionary and the losses with zeros or with the
mean vector in that place: at some sites even those cost little.
"""

import polyseme

texts = [
    "import os\n\n\ndef size(path):\n    return os.path.getsize(path)\n",
    "class Stack:\n    def __init__(self):\n        self.items = []\n",
]
site = "blocks.2.resid_post"
network = polyseme.load_network("pylm")

for n_latents, k in ((512, 8), (512, 32)):
    config = polyseme.BatchTopKConfig(n_latents=n_latents, k=k)
    trained = polyseme.train(network, config, site=site, text={"kind": "stdlib"}, n_tokens=20_000)
    loss = polyseme.splice_loss(network, texts, {site: trained.dictionary})
    print(f"k = {k}\n{loss}\n")
