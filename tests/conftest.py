"""Shapes are checked at run time in every test; the network is blocked by pytest's options."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  the hook takes the checker by name, and finds it only once it is imported

install_import_hook("polyseme", "tests.typecheck.checked")
