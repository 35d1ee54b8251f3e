"""Real images: which datasets there are, the files that hold them, and what a minibatch is drawn from.

    data = Datasets(Path("/data"))
    data.open("npz:pets").info.num_classes

A data directory holds datasets in the layout that each is published in:

    cifar10          DIR/cifar-10-batches-py/data_batch_1 to data_batch_5
    cifar100         DIR/cifar-100-python/train
    imagenet16-120   DIR/ImageNet16/train_data_batch_1 to train_data_batch_10
    npz:NAME         DIR/NAME.npz, with images uint8 [n, H, H, 3] and labels integers [n]

Files are taken for hostile: nothing outside the directory is read, and unpickling runs nothing.
"""

from archscore_server.engine.datasets._dataset import Dataset, DatasetInfo
from archscore_server.engine.datasets._directory import Datasets
from archscore_server.engine.datasets._errors import DatasetError, DatasetNotFoundError
from archscore_server.engine.datasets._names import GAUSSIAN, KNOWN, file_of, is_known

__all__ = [
    "GAUSSIAN",
    "KNOWN",
    "Dataset",
    "DatasetError",
    "DatasetInfo",
    "DatasetNotFoundError",
    "Datasets",
    "file_of",
    "is_known",
]
