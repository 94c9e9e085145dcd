"""Resume: which phases a checkpoint was taken inside, and which it is past."""

import pytest

from train.bits.configs import Configs
from train.loop.session import Resume
from train.loop.state import PHASES, CheckpointState, Position


@pytest.mark.parametrize("phase", PHASES)
def test_a_checkpoint_is_inside_one_phase_and_past_those_before(phase):
    index = PHASES.index(phase)
    inside = Resume(CheckpointState(phase, Position.start(1), {}, 0, Configs({})))
    assert [inside.inside(p) for p in PHASES] == [p == phase for p in PHASES]
    assert [inside.past(p) for p in PHASES] == [k < index for k in range(len(PHASES))]
    ended = Resume(CheckpointState(phase, None, {}, 0, Configs({})))
    assert not any(ended.inside(p) for p in PHASES)
    assert [ended.past(p) for p in PHASES] == [k <= index for k in range(len(PHASES))]


def test_a_new_run_is_nowhere():
    assert not any(Resume().inside(p) or Resume().past(p) for p in PHASES)


def test_positions_add_up_losses_until_a_line_is_written():
    position = Position.start(2).after_step([1.0, 2.0]).after_step([0.5, 0.5])
    assert position == Position(0, 2, (1.5, 2.5), 2)
    assert position.after_line().after_epoch() == Position(1, 0, (0.0, 0.0), 0)
