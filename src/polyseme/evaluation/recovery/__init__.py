"""Did a dictionary find the features: metrics against truth, for any dictionary where the features are known.

answers = Answers.of([(dictionary.encode(x), values)])
recovery(dictionary.write_directions(), FeatureTruth(directions, parents), answers)
"""

from polyseme.evaluation.recovery.answers import Answers, FeatureTruth, Values
from polyseme.evaluation.recovery.directions import cosines, hedging, length_ratio, nearest_cosine, random_cosines
from polyseme.evaluation.recovery.firing import Absorptions, Scores, absorption, feature_scores, latent_scores
from polyseme.evaluation.recovery.nearest import nearest_feature, nearest_scores
from polyseme.evaluation.recovery.records import over_seeds, recovery
from polyseme.evaluation.recovery.scored import scored

__all__ = [
    "Absorptions",
    "Answers",
    "FeatureTruth",
    "Scores",
    "Values",
    "absorption",
    "cosines",
    "feature_scores",
    "hedging",
    "latent_scores",
    "length_ratio",
    "nearest_cosine",
    "nearest_feature",
    "nearest_scores",
    "over_seeds",
    "random_cosines",
    "recovery",
    "scored",
]
