"""Number: how many equal trials should run at once on one device. Pure.

Two things bound it: the memory of the device, and that trials which compute at once slow each other down. It must not
know how anything was measured.
"""

from __future__ import annotations

from collections.abc import Mapping

#: Most trials on one device.
MOST = 8
#: By how much the memory of a trial may exceed what was measured: other batches, and fragments of torch's allocator.
MARGIN = 0.15
#: By how much a larger number of trials must be faster, all together: less is noise, and costs each of them time.
LEAST_GAIN = 1.1


def fitting(peak_bytes: int, total_bytes: int, most: int = MOST) -> int:
    """Number of trials for whose memory there is room, with MARGIN for each; from 1 to `most`.

    Raises ValueError unless peak_bytes is above 0.
    """
    if peak_bytes <= 0:
        raise ValueError(f"peak_bytes must be above 0 (got {peak_bytes})")
    return max(1, min(most, int(total_bytes / (peak_bytes * (1 + MARGIN)))))


def with_cpus(cpus: float, gpus: float, cpus_per_trial: float, most: int = MOST) -> int:
    """Number of trials for which a GPU of a node has CPUs, if its GPUs have the same number of them; from 1 to
    `most`."""
    return max(1, min(most, int(cpus / max(1.0, gpus) / cpus_per_trial)))


def to_measure(fits: int) -> list[int]:
    """Numbers of trials whose speed is worth measuring: powers of two, and `fits`. Ascending, from 1."""
    return sorted({1, fits, *(2**power for power in range(1, fits.bit_length()) if 2**power <= fits)})


def fastest(images_per_second: Mapping[int, float]) -> int:
    """The number of trials to run at once, of those whose speed all together was measured. 1 must be among them.

    A larger number is chosen only if it is faster than the one chosen before by LEAST_GAIN, so it is faster than every
    smaller one.
    """
    chosen = 1
    for number in sorted(images_per_second):
        if images_per_second[number] >= LEAST_GAIN * images_per_second[chosen]:
            chosen = number
    return chosen
