"""What a model and a training are made of: frozen dataclasses, checked on creation, and named presets."""

from dataclasses import dataclass

__all__ = ["PixelCNNSpec"]


@dataclass(frozen=True)
class PixelCNNSpec:
    """Wiring of a PixelCNN: how L mask-B layers and P 1x1 blocks form residual blocks."""

    residual_scale: float = 1.0
    """Factor of every residual branch."""
    block_convs: int = 1
    """Masked convolutions in a residual block: 1 or 2."""
    pointwise_after: tuple[int, ...] | None = None
    """Residual block after which each 1x1 block stands; default: block p after residual block p."""
    visible_stride: int = 1
    """Image pixels whose row or column is no multiple of it are fed to the network as 0."""

    def pointwise_positions(self, pointwise_blocks: int, layers: int) -> tuple[int, ...]:
        """`pointwise_after` with its default filled in, for P 1x1 blocks and L mask-B layers.

        Raises ValueError where the wiring does not fit these numbers.
        """
        if self.block_convs not in (1, 2) or layers % self.block_convs:
            raise ValueError(f"spec: block_convs {self.block_convs} wanted 1 or 2 and a divisor of {layers} layers")
        if self.visible_stride < 1:
            raise ValueError(f"spec: visible_stride {self.visible_stride} wanted >= 1")
        after = tuple(range(pointwise_blocks)) if self.pointwise_after is None else self.pointwise_after
        blocks = layers // self.block_convs
        if len(after) != pointwise_blocks or any(not 0 <= position < blocks for position in after):
            raise ValueError(
                f"spec: pointwise_after {after} wanted {pointwise_blocks} positions in 0..{blocks - 1}, one for each 1x1 block"
            )
        return after
