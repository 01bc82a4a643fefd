"""polyseme finds the features inside a neural network and says which of them are really the network's.

    import polyseme

    result = polyseme.study("study.toml")        # or a config, or a dict
    print(result.report)                         # the path of report.html
    result.latents("blocks.2.resid_post").to_pandas()          # every latent with its verdict and evidence
    for latent in result.shown(status="network_feature"):  # the few that the report shows, with their contexts
        print(latent.latent, latent.top_tokens)

Importing polyseme does nothing: no download, no global state; everything heavy is imported when it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from polyseme.core.version import __version__

if TYPE_CHECKING:
    from polyseme.api.continued import continue_text
    from polyseme.api.latent_edits import ablate, steer
    from polyseme.api.probes import fit_probe
    from polyseme.api.splice_loss import splice_loss
    from polyseme.api.top_tokens import top_tokens
    from polyseme.api.train import train
    from polyseme.diagnosis import diagnose
    from polyseme.dictionaries import (
        BatchTopKConfig,
        GatedConfig,
        JumpReLUConfig,
        MatryoshkaConfig,
        ReLUConfig,
        TopKConfig,
        load_dictionary,
        save_dictionary,
    )
    from polyseme.networks import load_network
    from polyseme.report.write import study
    from polyseme.studies.comparing import compare
    from polyseme.studies.config import StudyConfig as Study
    from polyseme.studies.opening import open_study
    from polyseme.studies.result import StudyResult

_PUBLIC = {
    "Study": ("polyseme.studies.config", "StudyConfig"),
    "compare": ("polyseme.studies.comparing", "compare"),
    "open_study": ("polyseme.studies.opening", "open_study"),
    "diagnose": ("polyseme.diagnosis", "diagnose"),
    "StudyResult": ("polyseme.studies.result", "StudyResult"),
    "study": ("polyseme.report.write", "study"),
    "ablate": ("polyseme.api.latent_edits", "ablate"),
    "steer": ("polyseme.api.latent_edits", "steer"),
    "continue_text": ("polyseme.api.continued", "continue_text"),
    "top_tokens": ("polyseme.api.top_tokens", "top_tokens"),
    "splice_loss": ("polyseme.api.splice_loss", "splice_loss"),
    "train": ("polyseme.api.train", "train"),
    "fit_probe": ("polyseme.api.probes", "fit_probe"),
    "BatchTopKConfig": ("polyseme.dictionaries", "BatchTopKConfig"),
    "GatedConfig": ("polyseme.dictionaries", "GatedConfig"),
    "JumpReLUConfig": ("polyseme.dictionaries", "JumpReLUConfig"),
    "MatryoshkaConfig": ("polyseme.dictionaries", "MatryoshkaConfig"),
    "ReLUConfig": ("polyseme.dictionaries", "ReLUConfig"),
    "TopKConfig": ("polyseme.dictionaries", "TopKConfig"),
    "load_dictionary": ("polyseme.dictionaries", "load_dictionary"),
    "save_dictionary": ("polyseme.dictionaries", "save_dictionary"),
    "load_network": ("polyseme.networks", "load_network"),
}

__all__ = [
    "BatchTopKConfig",
    "GatedConfig",
    "JumpReLUConfig",
    "MatryoshkaConfig",
    "ReLUConfig",
    "Study",
    "StudyResult",
    "TopKConfig",
    "__version__",
    "ablate",
    "compare",
    "continue_text",
    "diagnose",
    "fit_probe",
    "load_dictionary",
    "load_network",
    "open_study",
    "save_dictionary",
    "splice_loss",
    "steer",
    "study",
    "top_tokens",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        module, attribute = _PUBLIC[name]
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module 'polyseme' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
