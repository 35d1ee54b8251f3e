"""What papers report for the same measurement, to show beside ours."""

from __future__ import annotations

from typing import Final

#: Where the figures are from.
SOURCE: Final = (
    "Xiang et al., *Exploiting Network Compressibility and Topology in Zero-Cost NAS*, AutoML 2023, on all 15,625 cells"
)

#: Columns of accuracies that the figures are about.
COLUMNS: Final = ("cifar10_test", "cifar100_test", "imagenet16_120_test")

#: Kendall's tau by proxy, in the order of `COLUMNS`. That of several proxies is of their rank sum.
TAU: Final = {
    ("grad_norm",): (0.46, 0.47, 0.43),
    ("grasp",): (0.37, 0.37, 0.40),
    ("layerwise_naswot",): (0.57, 0.57, 0.56),
    ("naswot",): (0.58, 0.62, 0.60),
    ("ntk_condition_number", "linear_regions"): (0.54, 0.54, 0.52),
    ("parameters",): (0.58, 0.55, 0.52),
    ("snip",): (0.46, 0.46, 0.43),
    ("ssnr",): (0.68, 0.65, 0.63),
    ("synflow",): (0.54, 0.57, 0.56),
    ("tcet",): (0.69, 0.65, 0.62),
    ("zen",): (0.29, 0.28, 0.29),
    ("zico",): (0.61, 0.61, 0.60),
}

#: A gap that the choice of cells and of images explains.
CLOSE: Final = 0.03
