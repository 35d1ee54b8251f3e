"""Weights: drawn as the definitions say, from streams that are kept."""

import math

import numpy as np
import pytest

from archscore.spaces import Layer
from archscore_server.engine import Init
from archscore_server.engine.init import WeightStreams

CONV = Layer("c", "conv", 4, 6, 3, 1, 1, bias=False, resolution=8)
GROUPED = Layer("g", "conv", 8, 8, 5, 1, 8, bias=False, resolution=8)
LINEAR = Layer("l", "linear", 7, 3, 1, 1, 1, bias=True, resolution=1)


def stream(seed: int, k: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, k]))


@pytest.mark.parametrize("layer", [CONV, GROUPED, LINEAR], ids=lambda layer: layer.name)
@pytest.mark.parametrize("init", list(Init))
def test_a_weight_is_its_stream_times_the_scale_rounded_to_float32(layer: Layer, init: Init) -> None:
    shape = layer.weight_shape
    area = math.prod(shape[2:])
    fan_in, fan_out = shape[1] * area, shape[0] * area
    drawn = stream(3, 11).standard_normal(shape)
    expected = {
        Init.KAIMING_NORMAL: drawn * math.sqrt(2 / fan_in),
        Init.XAVIER_NORMAL: drawn * math.sqrt(2 / (fan_in + fan_out)),
        Init.NORMAL: drawn,
        Init.PYTORCH: (2 * stream(3, 11).random(shape) - 1) / math.sqrt(fan_in),
    }[init]
    weight = WeightStreams().weight(shape, 11, 3, init)
    assert weight.dtype == np.float32
    np.testing.assert_array_equal(weight, expected.astype(np.float32))


def test_what_was_drawn_before_does_not_matter() -> None:
    streams = WeightStreams()
    for layer in (LINEAR, CONV, GROUPED, CONV, LINEAR):
        fresh = WeightStreams().weight(layer.weight_shape, 2, 5, Init.NORMAL)
        np.testing.assert_array_equal(streams.weight(layer.weight_shape, 2, 5, Init.NORMAL), fresh)


@pytest.mark.parametrize("init", list(Init))
def test_a_weight_is_the_caller_s_own(init: Init) -> None:
    streams = WeightStreams()
    before = streams.weight(LINEAR.weight_shape, 2, 5, init).copy()
    streams.weight(LINEAR.weight_shape, 2, 5, init)[:] = 0
    np.testing.assert_array_equal(streams.weight(LINEAR.weight_shape, 2, 5, init), before)


def test_streams_are_kept_up_to_a_bound() -> None:
    bound = 10 * CONV.weights * 8
    streams = WeightStreams(max_bytes=bound)
    for k in range(1000):
        streams.weight(CONV.weight_shape, k, 0, Init.NORMAL)
        assert streams.nbytes <= bound
    assert streams.nbytes > bound // 2
