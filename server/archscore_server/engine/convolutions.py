"""What is to be known of convolutions besides their mathematics."""

from __future__ import annotations

#: Channels that oneDNN takes together at most.
_BLOCK = 16


def overruns(in_channels: int, kernel: int, stride: int) -> bool:
    """Whether oneDNN may write past the end of its memory when it computes the gradient of such weights.

    It does for 1x1 kernels with a stride where a group has fewer channels than are taken together and memory is
    channels_last: the process crashes, now or later, or the gradient is wrong
    (https://github.com/uxlfoundation/oneDNN/issues/6035). A larger kernel is safe.

    Args:
        in_channels: of a group.
        kernel: side of the kernel.
        stride: as in F.conv2d.
    """
    return kernel == 1 and stride > 1 and in_channels < _BLOCK
