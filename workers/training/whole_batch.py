"""Whole batch: layers whose output for an image depends on the batch, where each process of a group has a part of it.

Owns what such layers compute in a group: batch normalization with the mean and deviation of the whole batch, and random
layers with the numbers that one process draws for it. torch's SyncBatchNorm does the former too, but only on GPUs, so
that nothing could be tested without. It must not know the training loop. Nothing waits for a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import StochasticDepth

from workers.training.group import Group

BATCH_NORMALIZATION = nn.modules.batchnorm._BatchNorm
#: Layers without weights that draw a number for each value, or each image, in the order of the batch.
RANDOM = (nn.modules.dropout._DropoutNd, StochasticDepth)


@contextmanager
def over_whole_batches(model: nn.Module, group: Group) -> Iterator[None]:
    """In the block, the layers of `model` compute in training mode what they would for the whole batch.

    Outside, the model is as it was: it is saved, exported and evaluated like that of one process.
    """
    changed: list[Any] = []
    if not group.is_alone:
        changed = [layer for layer in model.modules() if isinstance(layer, (BATCH_NORMALIZATION, *RANDOM))]
        for layer in changed:
            change = _normalized if isinstance(layer, BATCH_NORMALIZATION) else _drawn
            layer.forward = partial(change, layer, group)
    try:
        yield
    finally:
        for layer in changed:
            del layer.forward  # the one of its class is back


def _drawn(layer: nn.Module, group: Group, images: Tensor) -> Tensor:
    """A random layer sees as many images as the whole batch has, and this process's in their place. `images` may have
    several rows for each image."""
    part = group.part
    own = part.stop - part.start
    plain: Any = type(layer).forward
    rows, rest = divmod(len(images), own)
    if not layer.training or own == part.count or rest:
        found: Tensor = plain(layer, images)
        return found
    form = torch.channels_last if _is_channels_last(images) else torch.contiguous_format
    shape = (part.count * rows, *images.shape[1:])
    whole = torch.empty(shape, dtype=images.dtype, device=images.device, memory_format=form).zero_()
    mine = slice(part.start * rows, part.stop * rows)
    whole[mine] = images
    drawn: Tensor = plain(layer, whole)[mine]
    return drawn


def _normalized(layer: Any, group: Group, images: Tensor) -> Tensor:
    """Batch normalization [N, C, ...] with the statistics of the whole batch, which its running ones follow."""
    part = group.part
    if not layer.training or part.stop - part.start == part.count:
        plain: Tensor = type(layer).forward(layer, images)
        return plain
    weight, bias = layer.weight, layer.bias
    if not layer.affine:
        weight = torch.ones(layer.num_features, dtype=torch.promote_types(images.dtype, torch.float32)).to(
            images.device
        )
        bias = torch.zeros_like(weight)
    output, mean, variance = _BatchNormalization.apply(images, weight, bias, layer.eps, group)
    if layer.track_running_stats:
        with torch.no_grad():
            layer.num_batches_tracked.add_(1)
            mean_of_all = layer.num_batches_tracked.to(mean.dtype).reciprocal()
            factor = mean_of_all if layer.momentum is None else layer.momentum
            layer.running_mean.lerp_(mean, factor)
            layer.running_var.lerp_(variance, factor)
    result: Tensor = output
    return result


class _BatchNormalization(torch.autograd.Function):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias for each channel, and the gradient of a loss of all images.

    Means and variances of the processes are merged after Chan, Golub and LeVeque (1979). For the gradient with dy, the
    derivative of the loss by y, and x' = (x - mean) / sqrt(variance + eps):
    dx = weight / sqrt(variance + eps) * (dy - mean(dy) - x' * mean(dy * x')), where both means are over the whole
    batch (Ioffe and Szegedy, 2015). The gradients of weight and bias are this process's part of them.
    """

    @staticmethod
    def forward(
        context: Any, images: Tensor, weight: Tensor, bias: Tensor, eps: float, group: Group
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Output, mean [C], and variance [C] as the running one estimates it, of values - 1."""
        count, channels = images.numel() // images.shape[1], images.shape[1]
        precision = torch.promote_types(images.dtype, torch.float32)
        own_variance, own_mean = torch.var_mean(images.to(precision), _others(images), correction=0)
        found = torch.zeros((group.size, 1 + 2 * channels), dtype=precision, device=images.device)
        own = found[group.rank]
        own[0], own[1 : 1 + channels], own[1 + channels :] = count, own_mean, own_variance
        counts, means, variances = group.sum(found).split((1, channels, channels), dim=1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        squares = (counts * (variances + (means - mean).square())).sum(0)
        variance = squares / total
        context.save_for_backward(images, weight, mean, variance, total)
        context.eps, context.group = eps, group
        unbiased = squares / (total - 1)
        context.mark_non_differentiable(mean, unbiased)
        return functional.batch_norm(images, mean, variance, weight, bias, eps=eps), mean, unbiased

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, mean, variance, total = context.saved_tensors
        gradient, eps = gradients[0], context.eps
        # As if mean and variance were constants; what they add follows.
        direct, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, images, weight, mean, variance, None, None, False, eps, [True, True, True]
        )
        along, at_mean = context.group.sum(torch.stack((of_weight, of_bias)).to(mean.dtype)) / total
        scale = (variance + eps).rsqrt()
        slope = weight * scale.square() * along
        constant = weight * scale * at_mean - slope * mean
        form = (1, -1, *[1] * (images.ndim - 2))
        found = direct - torch.addcmul(constant.view(form), images, slope.view(form))
        return found.to(images.dtype), of_weight, of_bias, None, None


def _others(images: Tensor) -> list[int]:
    """The dimensions other than that of the channels."""
    return [0, *range(2, images.ndim)]


def _is_channels_last(images: Tensor) -> bool:
    return images.ndim == 4 and images.is_contiguous(memory_format=torch.channels_last)
