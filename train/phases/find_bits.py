"""How a run comes to its bits: from a method that learns them, from a file, or from the command line."""

from dataclasses import dataclass, replace

from train.bits import configs
from train.bits.configs import Configs, Configuration
from train.bits.cost import CostTable, check_given, layer_cost, relative
from train.data.batches import Batches, Held
from train.loop import checkpoint
from train.loop.phase import Run
from train.network.architectures import END_BITS, Architecture
from train.network.network import Network
from train.phases import given_bits
from train.search import csq, dqmq, fracbits, ilp
from train.search.shared import Search
from train.settings.settings import Settings

# method -> search(Search): trains, and returns what makes its configurations of the trained network
SEARCHES = {"fracbits": fracbits.search, "ilp": ilp.search, "csq": csq.search, "dqmq": dqmq.search}


def variant_bits(arch: Architecture, w_bits: int, a_bits: int) -> dict[str, tuple[int, int]]:
    """Layer name -> widths: the given ones inside, 8 bits in the first layer and the classifier."""
    return {layer.name: END_BITS if layer in arch.ends else (w_bits, a_bits) for layer in arch.layers}


@dataclass(frozen=True)
class Bits:
    """How a run comes to its bits, and what they cost; made before any training, so that it fails early if at all."""

    settings: Settings
    given: Configs | None
    table: CostTable | None

    @classmethod
    def of(cls, settings: Settings, arch: Architecture) -> "Bits":
        """Raises ConfigsError, or CostError for a cost that cannot be had or a budget out of reach."""
        cost = layer_cost(settings.bits.cost, settings.bits.target)
        if settings.training.start:  # which brings them along
            return cls(settings, None, None)
        if settings.bits.configs:
            found = configs.load(settings.bits.configs, tuple(layer.name for layer in arch.layers))
            # What another run made private trains here like any other variant for some kinds of quality.
            priced = tuple(replace(v, cost=relative(cost, arch, v.bits), base="") for v in found.variants)
            found = replace(found, about=settings.costs, variants=priced)
            given_bits.check(settings, found, f"--configs {settings.bits.configs}")
            return cls(settings, found, None)
        if settings.bits.method == "fixed":
            made = {name: variant_bits(arch, *widths) for name, widths in settings.bits.uniform.items()}
            found = tuple(Configuration(n, bits, relative(cost, arch, bits), "fixed") for n, bits in made.items())
            check_given(settings.bits.budget, [(v.name, v.cost) for v in found])
            return cls(settings, Configs(settings.costs, found), None)
        table = CostTable.of(cost, arch, settings.bits.candidates)
        table.check(settings.bits.budget, settings.bits.activation_bits if settings.bits.method == "csq" else None)
        return cls(settings, None, table)

    def find(
        self, run: Run, batches: Batches, teacher: Network, tutor: Network, held: Held, resumed: dict | None
    ) -> None:
        """Sets the run's configurations and writes configs.json."""
        inside = resumed is not None and resumed["phase"] == "search"
        if resumed is not None and resumed["configs"] is not None:
            run.configs = Configs.from_dict(resumed["configs"], "the checkpoint")
            if run.group.writes:
                run.configs.write(run.folder)
        if resumed is not None and resumed["phase"] in checkpoint.AFTER_SEARCH:
            return
        if self.given is not None:
            run.configs = self.given
            if run.group.writes:
                run.configs.write(run.folder)
            return
        search = Search(self.settings, run, batches, teacher, tutor, held, self.table, resumed if inside else None)
        finish = SEARCHES[self.settings.bits.method](search)
        with run.group.writer_first():
            if run.group.writes:
                finish()
            run.configs = configs.read(run.folder / configs.CONFIGS_FILE)
        del run.modules["search"]
