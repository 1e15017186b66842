"""The convolution of every network here."""

import torch
from torch import Tensor, nn


class Conv3d(nn.Conv3d):
    """`nn.Conv3d` whose gradients can be relied on in half precision on the CPU, too.

    oneDNN's gradient of the weights in bfloat16 reads memory that was never written, and for wide kernels writes beyond its own, where the volume has
    fewer voxels along an axis than the kernel: gradients that are NaN or change from call to call, or a crash (torch 2.13 on a processor with
    avx512_bf16; along x 2 voxels for a kernel of 3, 3 and 4 for 5, 3 to 6 for 7, along others 1 for 5 and 2 for 7). The coarsest level of a U-Net on
    small patches is such a volume. There it computes in float32, which costs nothing to speak of; float32 itself, other sizes and GPUs are not
    concerned.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """[batch, in_channels, x, y, z] to [batch, out_channels, x, y, z], as that of `nn.Conv3d`; float32 where it computes so."""
        short = any(n < size for n, size in zip(input.shape[-3:], self.kernel_size, strict=True))
        if short and input.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return super().forward(input.to(self.weight.dtype))
        return super().forward(input)
