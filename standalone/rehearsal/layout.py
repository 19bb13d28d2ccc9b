"""The names and shapes of a weights file, written down layer by layer."""

from __future__ import annotations

Shape = tuple[int, ...]


class Layout(dict[str, Shape]):
    """Names of tensors -> shapes. Each method adds one layer's tensors under its name."""

    def linear(self, name: str, wide: int, narrow: int, bias: bool = True) -> None:
        """A Linear from ``narrow`` to ``wide`` features."""
        self[f"{name}.weight"] = (wide, narrow)
        if bias:
            self[f"{name}.bias"] = (wide,)

    def conv(self, name: str, wide: int, narrow: int, *kernel: int) -> None:
        """A convolution with a bias; ``kernel`` has a size for each dimension."""
        self[f"{name}.weight"] = (wide, narrow, *kernel)
        self[f"{name}.bias"] = (wide,)

    def norm(self, name: str, width: int, bias: bool = True) -> None:
        """Gamma, and beta unless it is a root mean square's."""
        self[f"{name}.weight"] = (width,)
        if bias:
            self[f"{name}.bias"] = (width,)

    def under(self, prefix: str, other: Layout) -> None:
        """Another layout's tensors below a prefix."""
        self.update({f"{prefix}{name}": shape for name, shape in other.items()})
