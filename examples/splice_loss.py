"""What a language model loses when a dictionary's reconstruction stands in the place of its own vectors.

    python examples/splice_loss.py

A loss means little alone: it stands beside the loss without the dictionary, and beside what it costs to put zeros or
the mean vector there, where an easy site loses little in any case.
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
