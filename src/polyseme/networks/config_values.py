"""Values in a `config.json` that no network has, recognised by what their field is called.

Names are those of transformers' configs. A rule is about a kind of field (a count, a window, a probability), never
about one family, and holds at any depth. Chosen layers, offsets and scales may be negative, so only names that say what
they count or measure are looked at.
"""

import math
import re
from pathlib import Path

from polyseme.core.errors import InputError

_LARGEST, _MOST_LAYERS, _MOST_LABELS = 2**40, 10_000, 1_000_000
_COUNT = re.compile(r"^(n|num|d)_|(^|_)(size|sizes|dim|dims|window|heads|groups|rank|depth|std|range|interval)$")
_NONE_BY_MINUS_ONE = {"num_images", "chunk_size"}
_SHARE = re.compile(r"dropout|layerdrop|_pdrop$|drop_(path|rate)|_prob$")
_EPSILON = re.compile(r"(^|_)(eps|epsilon)(_|$)")
_ABOVE_ZERO = re.compile(
    r"^(n_head|n_embd|d_model|hidden_size|(num_)?(attention_|key_value_|kv_)?heads|rope_theta|rotary_emb_base|factor|"
    r"max_position_embeddings|n_positions|n_ctx)$"
)
_YES_OR_NO = re.compile(r"^(is|tie)_")
_TOKEN = re.compile(r"_token_id$")
_BOUND = re.compile(r"limit|clip|max|cap|threshold")
"""Fields whose value may be infinite: a bound that binds nothing."""


def check_value(key: str, value: object, path: Path) -> None:
    """Refuse a value that the field of this name cannot have.

    Args:
        key: the field.
        value: of it, or an entry of its list.
        path: of the config, for the error.

    Raises:
        InputError: a number that is not finite, too large, negative where the field counts or measures something, zero
            where the network divides by it, or no probability where it is one; a word where a number belongs.
    """
    is_share, is_epsilon = _SHARE.search(key) is not None, _EPSILON.search(key) is not None
    is_amount = is_share or is_epsilon or any(kind.search(key) for kind in (_COUNT, _ABOVE_ZERO))
    if isinstance(value, str) and (is_amount or _YES_OR_NO.search(key)):
        raise _refused(key, f"{value[:100]!r}, which is not {'true or false' if not is_amount else 'a number'}", path)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    if isinstance(value, float) and (math.isnan(value) or (math.isinf(value) and not _BOUND.search(key))):
        raise _refused(key, f"{value}, which is not a finite number", path)
    layers = re.search(r"(^|_)layers?$", key) or key in ("depth", "num_blocks", "n_block")
    most = _MOST_LABELS if key == "num_labels" else _MOST_LAYERS if layers else _LARGEST
    if isinstance(value, int) and abs(value) > most:
        raise _refused(key, f"{value:,}, more than any network has", path)
    is_none = value == -1 and (key in _NONE_BY_MINUS_ONE or _TOKEN.search(key))
    if value < 0 and not is_none and (is_amount or _TOKEN.search(key)):
        raise _refused(key, f"{value:,}, which no network has", path)
    if value == 0 and _ABOVE_ZERO.search(key):
        raise _refused(key, "0, which no network has", path)
    if value > 1 and (is_share or is_epsilon):
        what = "a probability" if is_share else "the small number under a square root that it should be"
        raise _refused(key, f"{value:,}, which is not {what}", path)


def _refused(key: str, what: str, path: Path) -> InputError:
    fix = f"correct `{key}` in config.json, or copy the folder again from where it came"
    return InputError(f"`{key[:100]}` is {what}", where=str(path), fix=fix)
