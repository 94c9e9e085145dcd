"""The training loop: the learning rate, and a loss that is no longer finite."""

import numpy as np
import pytest
import torch

from tests.support.sessions import quiet_run
from train.data.batches import Batches
from train.loop.phase import VariantsPhase, learning_rate
from train.loop.training import TrainingError, train_phase
from train.network.architectures import architecture
from train.network.network import FULL, Network


def test_rate_warms_up_and_ends_at_zero():
    rates = [learning_rate(s, 200, 0.1) for s in range(200)]
    assert max(rates) == 0.1 and rates[0] < 0.02 and rates[-1] < 1e-4 and rates.index(0.1) == 9


def test_a_loss_that_is_not_finite_stops_with_its_place(tmp_path):
    net = Network(architecture("resnet8", (16, 16, 3), 50), {})
    net.convs["linear"].weight.data[0] = float("nan")
    views = np.random.default_rng(0).integers(0, 256, (3, 50, 16, 16, 3), np.uint8)
    batches = Batches(views, np.arange(50), batch=8, pictures=0, seed=3, flip=True, device=torch.device("cpu"))
    message = "phase full, epoch 1, step 1 .full nan.*in layer linear.*no checkpoint yet.*--lr"
    with pytest.raises(TrainingError, match=message):
        train_phase(VariantsPhase("full", net, (FULL,), 1, 1e-3), quiet_run(tmp_path), batches, None, lambda: {})
