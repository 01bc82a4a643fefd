"""Reading latents: contexts, logit effects, neighbours, the most telling ones, and the data of a report."""
