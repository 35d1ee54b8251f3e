"""Names of minibatch sources, and the files that they are read from."""

from __future__ import annotations

import re

GAUSSIAN = "gaussian"

#: The first file that is looked for, relative to the data directory, in the layout that each dataset is published in.
_FILES = {
    "cifar10": "cifar-10-batches-py/data_batch_1",
    "cifar100": "cifar-100-python/train",
    "imagenet16-120": "ImageNet16/train_data_batch_1",
}

_NPZ = re.compile(r"npz:([A-Za-z0-9_-][A-Za-z0-9_.-]{0,63})")

#: What a request may name, in words.
KNOWN = f"{GAUSSIAN}, {', '.join(_FILES)} and npz:NAME (letters, digits, '_', '-', '.')"


def is_known(name: str) -> bool:
    """Whether a dataset of that name can exist."""
    return name == GAUSSIAN or name in _FILES or _NPZ.fullmatch(name) is not None


def file_of(name: str) -> str:
    """The file that a known dataset other than "gaussian" is looked for in, relative to the data directory."""
    if match := _NPZ.fullmatch(name):
        return f"{match[1]}.npz"
    return _FILES[name]
