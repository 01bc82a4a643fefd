"""What the evidence says of each latent: columns in, columns out."""
