"""Names of minibatch sources, and the files that they are read from."""

from __future__ import annotations

import re

GAUSSIAN = "gaussian"

#: The files of each published dataset, relative to the data directory, in the layout that it is published in.
PUBLISHED = {
    "cifar10": tuple(f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)),
    "cifar100": ("cifar-100-python/train",),
    "imagenet16-120": tuple(f"ImageNet16/train_data_batch_{number}" for number in range(1, 11)),
}

#: No separator and no leading dot: a name cannot leave the directory.
_NPZ = re.compile(r"npz:([A-Za-z0-9_-][A-Za-z0-9_.-]{0,63})")

#: What a request may name, in words.
KNOWN = f"{GAUSSIAN}, {', '.join(PUBLISHED)} and npz:NAME (letters, digits, '_', '-', '.')"


def is_known(name: str) -> bool:
    """Whether a dataset of that name can exist."""
    return name == GAUSSIAN or name in PUBLISHED or _NPZ.fullmatch(name) is not None


def files_of(name: str) -> tuple[str, ...]:
    """The files that a known dataset other than "gaussian" consists of, relative to the data directory."""
    if match := _NPZ.fullmatch(name):
        return (f"{match[1]}.npz",)
    return PUBLISHED[name]


def file_of(name: str) -> str:
    """The file that decides whether a dataset is there: its first."""
    return files_of(name)[0]
