"""A residual network without down-sampling: the proximal network of LPCNN."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from qsmdl.errors import InputError
from qsmdl.networks.convolution import Conv3d
from qsmdl.networks.economy import recomputed
from qsmdl.networks.unet import Norm, make_norm


class _Block(nn.Module):
    def __init__(self, width: int, norm: Norm, dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            Conv3d(width, width, 3, padding=1, bias=norm in ("none", "group")),
            make_norm(norm, width),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            Conv3d(width, width, 3, padding=1, bias=norm in ("none", "group")),
            make_norm(norm, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + x)


class ResNet3d(nn.Module):
    """Convolution, `depth` residual blocks of two 3 x 3 x 3 convolutions, and three 1 x 1 x 1 ones (Lai et al., LPCNN, MICCAI 2020): [batch,
    in_channels, x, y, z] to [batch, out_channels, x, y, z], of any size.

    width: channels; norm and dropout inside the blocks (LPCNN: "batch", 0.5); zero_head: start the last convolution at 0. `checkpoint_blocks` (an
    attribute, off) recomputes the blocks in the backward pass.
    """

    compilable: ClassVar[bool] = True

    def __init__(
        self,
        *,
        in_channels: int = 1,
        out_channels: int = 1,
        width: int = 32,
        depth: int = 8,
        norm: Norm = "batch",
        dropout: float = 0.0,
        zero_head: bool = False,
    ) -> None:
        super().__init__()
        for name, value in {"width": width, "depth": depth}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} is {value!r}; it must be a whole number of at least 1.")
        if not 0 <= dropout < 1:
            raise InputError(f"dropout is {dropout}; a probability below 1 is needed.")
        self.checkpoint_blocks = False
        self.stem = nn.Sequential(Conv3d(in_channels, width, 3, padding=1), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(*(_Block(width, norm, dropout) for _ in range(depth)))
        self.head = nn.Sequential(Conv3d(width, width, 1), nn.ReLU(inplace=True), Conv3d(width, width, 1), nn.ReLU(inplace=True))
        self.last = Conv3d(width, out_channels, 1)
        if zero_head:
            nn.init.zeros_(self.last.weight)
            if self.last.bias is not None:
                nn.init.zeros_(self.last.bias)

    def last_layers(self) -> list[nn.Module]:
        """The 1 x 1 x 1 convolutions at the end."""
        return [self.head, self.last]

    def forward(self, x: Tensor) -> Tensor:
        """The network's output on the grid of x."""
        if x.device.type == "cpu":
            x = x.contiguous(memory_format=torch.channels_last_3d)
        x = self.stem(x)
        for block in self.blocks:
            x = recomputed(block, x) if self.checkpoint_blocks and torch.is_grad_enabled() else block(x)
        output: Tensor = self.last(self.head(x))
        return output
