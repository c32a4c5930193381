"""The examples of training loops in Flax are run as shown."""

import pytest

from experiments import linen_example, nnx_example

pytestmark = pytest.mark.usefixtures("unoptimized")


def test_linen_example(capsys):
    assert linen_example.main(epochs=2) > 0.7
    printed = capsys.readouterr().out
    assert "test accuracy" in printed
    for layer in ("Conv_0", "Conv_1", "Dense_0", "Dense_1"):
        assert layer in printed


def test_nnx_example(capsys):
    assert nnx_example.main(epochs=2) > 0.7
    printed = capsys.readouterr().out
    assert "test accuracy" in printed
    for layer in ("conv1", "conv2", "hidden", "out"):
        assert layer in printed
