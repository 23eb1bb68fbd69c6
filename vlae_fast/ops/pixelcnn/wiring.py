"""The wiring as the bodies take it, checked."""

from collections.abc import Mapping, Sequence

__all__ = ["check_wiring"]


def check_wiring(sizes: Mapping[str, int], wiring: tuple[float, int, Sequence[int], int]) -> None:
    """Raises ValueError where residual_scale, block_convs, pointwise_after, visible_stride do not fit the sizes."""
    _, block_convs, after, stride = wiring
    L, P = sizes["L"], sizes["P"]
    blocks = L // block_convs if block_convs > 0 else 0
    if len(after) != P or stride < 1 or blocks * block_convs != L:
        raise ValueError(f"spec: does not fit L = {L}, P = {P}")
    if any(not 0 <= position < blocks for position in after):
        raise ValueError(f"spec: pointwise_after {list(after)} wanted in 0..{blocks - 1}")
