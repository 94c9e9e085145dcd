"""Going on from the end of another run (--start): its networks and bits, but no private variants."""

from dataclasses import replace

from torch import Tensor

from train.bits.configs import Configs
from train.bits.cost import layer_cost, relative
from train.loop.checkpoint import CheckpointError, fill_module, load_checkpoint
from train.loop.run import FULL_PRECISION_NETWORK, STUDENT_NETWORK
from train.loop.session import Resume
from train.loop.state import JOINT, PRIVATE, CheckpointState
from train.network.architectures import Architecture
from train.network.network import Network
from train.phases.given_bits import check_configs
from train.phases.joint import make_student
from train.settings.settings import Settings


def resume_from_run(settings: Settings, arch: Architecture) -> Resume:
    """Returns what a run goes on from right after its joint phase, taken from the end of the run --start.

    Costs are those of these settings. Raises CheckpointError for a run that cannot be gone on from, ConfigsError and
    CostError for variants that cannot be trained as asked.
    """
    start = f"--start {settings.training.start}"
    tensors, state = _load_end(settings, start)
    if state.configs is None:
        raise CheckpointError(f"{start}: expected configurations, got none; start without --start")
    cost = layer_cost(settings.bits.cost, settings.bits.target)
    shared = tuple(replace(v, cost=relative(cost, arch, v.bits)) for v in state.configs.variants if not v.base)
    kinds = state.configs.kinds if any(v.kinds for v in shared) else None
    configs = Configs(settings.costs, shared, (), kinds)
    check_configs(settings, configs, start)
    kept = _without_variants(tensors, {v.name for v in state.configs.variants if v.base})
    try:
        fill_module(Network(arch, {}), kept, FULL_PRECISION_NETWORK)
        fill_module(make_student(settings, arch, configs), kept, STUDENT_NETWORK)
    except CheckpointError as error:
        raise CheckpointError(f"{start}: {error}") from error
    return Resume(CheckpointState(JOINT, None, {}, 0, configs), kept)


def _load_end(settings: Settings, start: str) -> tuple[dict[str, Tensor], CheckpointState]:
    """The tensors and state of a run that has ended, of the architecture of the settings."""
    if settings.training.start is None:
        raise CheckpointError("expected a run to go on from, got none; give --start")
    tensors, state = load_checkpoint(settings.training.start, "--start")
    if not Resume(state).past(PRIVATE):
        raise CheckpointError(
            f"{start}: expected a run whose training has ended, got one stopped in its phase {state.phase}; end it "
            "with --resume"
        )
    arch = state.settings.get("arch")
    if arch != settings.network.arch:
        raise CheckpointError(f"{start}: expected a run with --arch {settings.network.arch}, got {arch}")
    return tensors, state


def _without_variants(tensors: dict[str, Tensor], variants: set[str]) -> dict[str, Tensor]:
    """The tensors of networks alone, but those of some variants, each of which is a part of its tensors' names."""
    networks = (f"{FULL_PRECISION_NETWORK}.", f"{STUDENT_NETWORK}.")
    return {
        name: t for name, t in tensors.items() if name.startswith(networks) and variants.isdisjoint(name.split("."))
    }
