"""Train a dictionary on a tensor of your own.

    python examples/train_on_a_tensor.py

The vectors here are sums of a few of 60 known directions in 20 dimensions, so we can check what was found.
"""

import torch

import polyseme

# 20,000 vectors, each a sum of about three of the directions
generator = torch.Generator().manual_seed(0)
directions = torch.nn.functional.normalize(torch.randn(60, 20, generator=generator), dim=1)
strengths = torch.rand(20_000, 60, generator=generator) * (torch.rand(20_000, 60, generator=generator) < 0.05)
x = strengths @ directions

trained = polyseme.train(x, polyseme.TopKConfig(n_latents=60, k=3), lr=0.01)
print(trained)

dictionary = trained.dictionary
z = dictionary.encode(x)
error = (dictionary.decode(z) - x).square().sum() / (x - x.mean(0)).square().sum()
print(f"\n{z}, fraction of variance unexplained {error:.3f}")

# cosine of each true direction with its nearest latent
cosine = (directions @ dictionary.write_directions().T).amax(1)
print(f"directions found (cosine above 0.9): {int((cosine > 0.9).sum())} of 60")

# polyseme.save_dictionary("my-dictionary", dictionary)  # and polyseme.load_dictionary("my-dictionary")
