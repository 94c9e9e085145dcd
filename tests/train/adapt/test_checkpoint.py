"""A checkpoint as a float network of operators: the logits that torch gives, in every convention of architectures."""

import numpy as np
import pytest
import torch

from train.adapt.answers import float_answers
from train.adapt.checkpoint import float_network
from train.network.architectures import architecture
from train.network.network import Network

pytestmark = pytest.mark.slow


def trained(name: str, shape=(16, 20, 3)) -> Network:
    """A network with batch norms and biases that are not those of the start."""
    torch.manual_seed(3)
    net = Network(architecture(name, shape, 7), {})
    net.zero_point.copy_(torch.tensor([120, 118, 101]))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    return net.eval()


@pytest.mark.parametrize("name", ["resnet8", "resnet20"])  # TensorFlow's padding and projections; option A
def test_the_float_network_answers_as_torch_does(name):
    from compile.calibrate.executor import NodeRunner, run_all
    from compile.calibrate.front import picture_values, with_picture

    net = trained(name)
    network, normalization = float_network(net)
    pictures = np.random.default_rng(0).integers(0, 256, (5, 16, 20, 3), np.uint8)
    with torch.no_grad():
        expected = net(torch.tensor(pictures)).numpy()
    values = picture_values(pictures, normalization)
    *_, (last, tensors) = run_all(with_picture(network, normalization), values, NodeRunner())
    np.testing.assert_allclose(tensors[last.output[0]], expected, rtol=1e-4, atol=1e-4)  # float32, in another order
    np.testing.assert_array_equal(float_answers(network, normalization, pictures), expected.argmax(1))
    assert network.shapes[network.output] == (1, 7)
