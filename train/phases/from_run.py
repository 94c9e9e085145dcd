"""Going on from the end of another run: its networks, bits and all that it learned, but no private variants."""

from dataclasses import replace

from torch import Tensor

from train.bits.configs import Configs
from train.bits.cost import layer_cost, relative
from train.loop import checkpoint
from train.loop.checkpoint import CheckpointError
from train.network.architectures import Architecture
from train.network.network import Network
from train.phases import given_bits
from train.phases.joint import variants_network
from train.settings.settings import Settings


def joined(settings: Settings, arch: Architecture) -> dict:
    """What a run resumes from right after its joint phase, taken from the run --start.

    Costs are of these settings. Raises CheckpointError for a run that cannot be gone on from, ConfigsError and
    CostError for variants that cannot be trained as asked.
    """
    tensors, state = checkpoint.load(settings.training.start, "--start")
    theirs = state["settings"].get("arch")
    if state["phase"] != "done":
        raise CheckpointError(
            f"--start {settings.training.start}: expected a run whose training has ended, got one stopped in "
            f"its phase {state['phase']}; end it with --resume"
        )
    if theirs != settings.network.arch:
        raise CheckpointError(
            f"--start {settings.training.start}: expected a run with --arch {settings.network.arch}, got {theirs}"
        )
    found = Configs.from_dict(state["configs"], f"--start {settings.training.start}")
    cost = layer_cost(settings.bits.cost, settings.bits.target)
    shared = tuple(replace(v, cost=relative(cost, arch, v.bits)) for v in found.variants if not v.base)
    found = Configs(settings.costs, shared, (), found.kinds if any(v.kinds for v in shared) else None)
    given_bits.check(settings, found, f"--start {settings.training.start}")
    private = {v["name"] for v in state["configs"]["variants"] if v.get("base")}
    kept = _without(tensors, private)
    try:
        checkpoint.fill(Network(arch, {}), kept, "teacher")
        checkpoint.fill(variants_network(settings, arch, found), kept, "student")
    except CheckpointError as error:
        raise CheckpointError(f"--start {settings.training.start}: {error}") from error
    return {"phase": "joined", "configs": found.to_dict(), "tensors": kept}


def _without(tensors: dict[str, Tensor], variants: set[str]) -> dict[str, Tensor]:
    """Tensors of networks alone, but those of some variants, whose names are parts of their own in a tensor's name."""
    return {
        name: t
        for name, t in tensors.items()
        if name.startswith(("teacher.", "student.")) and variants.isdisjoint(name.split("."))
    }
