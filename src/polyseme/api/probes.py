"""Probes: supervised read-outs of what a network knows."""

from typing import NoReturn

from polyseme.core.errors import InputError


def fit_probe(*_: object, **__: object) -> NoReturn:
    """Refuse: probes with their selectivity come with a later version.

    >>> polyseme.fit_probe()
    Traceback (most recent call last):
        ...
    polyseme.core.errors.InputError: Probes come with a later version of polyseme. Fix: until then fit scikit-learn's \
LogisticRegression on network.read(text, [site])[site].

    Raises:
        InputError: always.
    """
    raise InputError(
        "Probes come with a later version of polyseme",
        fix="until then fit scikit-learn's LogisticRegression on network.read(text, [site])[site]",
    )
