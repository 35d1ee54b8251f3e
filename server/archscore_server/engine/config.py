"""What a score depends on besides architecture and proxy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from archscore.spaces import nasbench201, zennas
from archscore_server.engine.datasets import GAUSSIAN, KNOWN, is_known

NetworkConfig = nasbench201.NetworkConfig | zennas.NetworkConfig


class ConfigError(ValueError):
    """A config that no evaluation can have.

    Attributes:
        field: name of the field at fault, as in EvaluationConfig of the contract (dotted where nested).
        description: what is wrong with it.
    """

    def __init__(self, field: str, description: str) -> None:
        """Names the field and what is wrong with it."""
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description


class Init(StrEnum):
    """How weights are drawn (proxies.md, Weights)."""

    KAIMING_NORMAL = "kaiming_normal"
    XAVIER_NORMAL = "xavier_normal"
    NORMAL = "normal"
    PYTORCH = "pytorch"


class Precision(StrEnum):
    """Arithmetic of an evaluation. FLOAT32 is IEEE, without TF32.

    TF32 is FLOAT32 whose matrix products and convolutions round their factors to 10 bits after the point: faster, and
    other scores. Only some GPUs have it.
    """

    FLOAT32 = "float32"
    FLOAT64 = "float64"
    TF32 = "tf32"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """A resolved evaluation config; two equal configs give equal scores.

    Attributes:
        dataset: source of the minibatch; "gaussian" is standard normal images with uniform labels.
        dataset_sha256: the content that a real dataset must have; None takes whatever the data directory holds.
        batch_size: images in the minibatch, B.
        resolution: side of the square input in pixels, R; a real dataset's own.
        num_classes: classes of the classifier; a real dataset's own.
        seed: first seed of weights and minibatch, below 2^32.
        repeats: number of seeds (seed, seed + 1, ...) that a score is the mean of.
        init: weight initialisation.
        precision: arithmetic.
        network: what shapes the networks of the search space besides the encoding.
    """

    dataset: str = GAUSSIAN
    dataset_sha256: str | None = None
    batch_size: int = 64
    resolution: int = 32
    num_classes: int = 10
    seed: int = 0
    repeats: int = 1
    init: Init = Init.KAIMING_NORMAL
    precision: Precision = Precision.FLOAT32
    network: NetworkConfig = nasbench201.SPACE.network

    def __post_init__(self) -> None:
        """Refuses what no evaluation can have.

        Raises:
            ConfigError: a field is out of its range.
        """
        if not is_known(self.dataset):
            raise ConfigError("dataset", f"no dataset {self.dataset!r}: known are {KNOWN}")
        for field, lowest in (("batch_size", 2), ("resolution", 1), ("num_classes", 2), ("repeats", 1)):
            value = getattr(self, field)
            if value < lowest:
                raise ConfigError(field, f"must be at least {lowest}, is {value}")
        if self.num_classes > 10_000:
            raise ConfigError("num_classes", f"must be at most 10000, is {self.num_classes}")
        if not 0 <= self.seed < 2**32:
            raise ConfigError("seed", f"must be at least 0 and below 2^32, is {self.seed}")
        if self.seed + self.repeats > 2**32:
            raise ConfigError("repeats", f"seed + repeats must be at most 2^32, is {self.seed + self.repeats}")

    @property
    def seeds(self) -> range:
        """The seeds that the evaluation runs with."""
        return range(self.seed, self.seed + self.repeats)
