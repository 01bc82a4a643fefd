"""What latents of planted networks stand for, and where the dictionaries come from that are judged there."""

from typing import Literal

from polyseme.trials.planted import Variable

Given = Literal["split_by_rule", "split_by_chance", "merged", "absorbed", "artefact"]
Kind = Variable | Given | Literal["unmatched"]
Mode = Literal["trained", "oracle", "altered", "frozen_decoder", "frozen_directions", "random_writes"]
MODES: dict[Mode, str] = {
    "trained": "dictionaries trained as a study trains them",
    "oracle": "one latent for each variable, with noise",
    "altered": "features with noise, split, merged or absorbed",
    "frozen_decoder": "trained dictionaries whose write directions stay random",
    "frozen_directions": "trained dictionaries whose directions stay random",
    "random_writes": "trained dictionaries, each write direction replaced by a draw from the site's covariance",
}
"""In words, in the order in which they are shown. All but the first are judged as given dictionaries: against partners
and dictionaries on null networks that are trained as a study trains them."""
NAMES: dict[Kind, str] = {
    "feature": "features: the network's own, of distant context, and read out",
    "token": "functions of the current token, read out",
    "bigram": "functions of two tokens, read out",
    "rare": "functions of two tokens, rare ones, read out",
    "unread": "computed like features, written where nothing reads",
    "bystander": "computed like features and not read, along directions that overlap those that are",
    "built_in": "what networks of random weights compute too, read out",
    "built_in_unread": "what networks of random weights compute too, not read out",
    "split_by_rule": "half of a feature's firings, by a rule of the site's vector",
    "split_by_chance": "half of a feature's firings, by chance",
    "merged": "the sum of two features",
    "absorbed": "a feature without its firings at one token",
    "artefact": "latents with random directions",
    "unmatched": "latents that stand for no single variable",
}
"""In words, in the order in which they are shown."""
FEATURES: tuple[Kind, ...] = ("feature",)
"""Kinds of which `network_feature` is the right word."""
EITHER: tuple[Kind, ...] = ("split_by_rule", "absorbed", "unmatched")
"""Kinds of which it is neither right nor wrong: parts of a feature, and mixtures whose truth is not known."""
