"""float64, also of tensors on a device that does not have it."""

from jaxtyping import Shaped
from torch import Tensor


def wide(x: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """The numbers in float64: on their device, or on the CPU where that is Apple's GPU (MPS), which has no float64."""
    return (x.cpu() if x.device.type == "mps" else x).double()
