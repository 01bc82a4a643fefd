"""The engine: one step of training, whatever the architecture."""
