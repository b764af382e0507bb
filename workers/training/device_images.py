"""DeviceImages: the images of one split, stored where a training loop reads them fastest, and in the fastest format.

Owns whether they are on the device, their memory format, and whether they are normalized once or batch by batch. The
network's input is channels_last: epochs on the CPU took 0.6 to 1.1 times as long with it as without, and half precision
on a GPU is fastest with it. It must not know labels, models or augmentation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from workers.models.inference import LARGEST_PIXEL, normalize

READY_BYTES = 256 * 2**20  # largest normalized float32 copy; larger sets are normalized batch by batch
RESIDENT_SHARE = 0.25  # of the GPU memory that a trial has left: activations need most of it


class DeviceImages:
    """uint8 images [N, C, H, W]; `mean` and `std` are [1, C, 1, 1] on `device`.

    `reused` says that the images are read as network input many times, so that it pays to normalize them once.
    Images that do not fit on the device stay in host memory and are moved batch by batch.
    """

    def __init__(
        self,
        images: Tensor,
        mean: Tensor,
        std: Tensor,
        device: torch.device,
        *,
        reused: bool = True,
    ) -> None:
        self._mean, self._std, self._device = mean, std, device
        room_bytes = _room(device) if device.type == "cuda" else math.inf
        self._resident = images.nbytes <= room_bytes
        self._raw = images.to(device) if self._resident else images
        self._ready: Tensor | None = None
        if reused and 4 * images.nbytes <= READY_BYTES and 5 * images.nbytes <= room_bytes:
            # Stored as [N, H, W, C], so that a batch gathered from it is channels_last without another copy.
            self._ready = normalize(self._raw, mean, std).permute(0, 2, 3, 1).contiguous()

    def __len__(self) -> int:
        return len(self._raw)

    @property
    def values_per_image(self) -> int:
        return self._raw[0].numel()

    def order(self, indices: Tensor) -> Tensor:
        """The indices on the device that `inputs` and `unit` need. It may wait for the GPU: call it once an epoch."""
        return indices if self._resident else indices.cpu()

    def inputs(self, indices: Tensor) -> Tensor:
        """The network input for these images."""
        if self._ready is None:
            return self._prepared(self._gathered(indices))
        return self._ready.index_select(0, indices).permute(0, 3, 1, 2)

    def inputs_between(self, start: int, stop: int) -> Tensor:
        """The network input for the images from `start` to `stop`."""
        if self._ready is None:
            return self._prepared(self._moved(self._raw[start:stop]))
        return self._ready[start:stop].permute(0, 3, 1, 2)

    def unit(self, indices: Tensor) -> Tensor:
        """These images as float32 in 0..1, for augmentation."""
        return self._gathered(indices).to(torch.float32).div_(LARGEST_PIXEL)

    def normalized(self, unit: Tensor) -> Tensor:
        """The network input for images in 0..1, with the mean and deviation that `inputs` uses."""
        return unit.sub(self._mean).div_(self._std).contiguous(memory_format=torch.channels_last)

    def _gathered(self, indices: Tensor) -> Tensor:
        return self._moved(self._raw.index_select(0, indices))

    def _moved(self, raw: Tensor) -> Tensor:
        return raw if self._resident else raw.pin_memory().to(self._device, non_blocking=True)

    def _prepared(self, raw: Tensor) -> Tensor:
        return normalize(raw, self._mean, self._std).contiguous(memory_format=torch.channels_last)


def _room(device: torch.device) -> float:
    """Bytes for the images of one split: a share of the free memory and of what the process may still allocate."""
    free, total = torch.cuda.mem_get_info(device)
    allowed = torch.cuda.get_per_process_memory_fraction(device) * total - torch.cuda.memory_allocated(device)
    return RESIDENT_SHARE * min(free, allowed)
