"""The second phase: bits from a method that learns them, from a file, or from the command line."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from train.bits.configs import CONFIGS_FILE, Configs, Configuration, load, read
from train.bits.cost import CostTable, check_given, layer_cost, relative
from train.loop.run import SEARCH_NETWORK
from train.loop.session import Session
from train.loop.state import SEARCH
from train.network.architectures import END_BITS, Architecture
from train.phases.given_bits import check_configs
from train.search import csq, dqmq, fracbits, ilp
from train.search.shared import Search, SearchPhase
from train.settings.settings import Settings

# method -> function that trains, and returns the phase that then records its configurations
SEARCHES: dict[str, Callable[[Search], SearchPhase]] = {
    "fracbits": fracbits.find_bits,
    "ilp": ilp.find_bits,
    "csq": csq.find_bits,
    "dqmq": dqmq.find_bits,
}


def variant_bits(arch: Architecture, w_bits: int, a_bits: int) -> dict[str, tuple[int, int]]:
    """Returns layer name -> (w_bits, a_bits): the given ones inside, 8 bits in the first layer and the classifier."""
    return {layer.name: END_BITS if layer in arch.ends else (w_bits, a_bits) for layer in arch.layers}


@dataclass(frozen=True)
class BitSource:
    """Where a run's bits come from: given configurations, or a search over a table of what bits cost.

    Both are None for a run that brings its configurations along by --start.
    """

    settings: Settings
    configs: Configs | None = None
    table: CostTable | None = None

    @classmethod
    def of(cls, settings: Settings, arch: Architecture) -> "BitSource":
        """Returns the source that the settings ask for, before any training, so that it fails early if at all.

        Raises ConfigsError, or CostError for a cost that cannot be had or a budget out of reach.
        """
        cost = layer_cost(settings.bits.cost, settings.bits.target)
        if settings.training.start:
            return cls(settings)
        if settings.bits.configs:
            brought = load(settings.bits.configs, tuple(layer.name for layer in arch.layers))
            # What another run made private trains here like any other variant for some kinds of quality.
            priced = tuple(replace(v, cost=relative(cost, arch, v.bits), base="") for v in brought.variants)
            configs = replace(brought, about=settings.costs, variants=priced)
            check_configs(settings, configs, f"--configs {settings.bits.configs}")
            return cls(settings, configs)
        if settings.bits.method == "fixed":
            bits_of = {name: variant_bits(arch, *widths) for name, widths in settings.bits.uniform.items()}
            variants = tuple(Configuration(n, bits, relative(cost, arch, bits), "fixed") for n, bits in bits_of.items())
            check_given(settings.bits.budget, [(v.name, v.cost) for v in variants])
            return cls(settings, Configs(settings.costs, variants))
        table = CostTable.of(cost, arch, settings.bits.candidates)
        table.check(settings.bits.budget, settings.bits.activation_bits if settings.bits.method == "csq" else None)
        return cls(settings, table=table)

    def find(self, session: Session) -> Configs:
        """Returns the run's configurations, after a search where they are not given, and writes configs.json.

        Raises TrainingError where the search cannot go on, CheckpointError for a checkpoint of another one.
        """
        run = session.run
        resume = session.resume
        if resume.state is not None and resume.state.configs is not None:
            run.record_configs(resume.state.configs)
            if resume.past(SEARCH):
                return resume.state.configs
        if self.configs is not None:
            run.record_configs(self.configs)
            return self.configs
        return self._search(session)

    def _search(self, session: Session) -> Configs:
        """Trains the method of the settings, and returns the configurations that the writing process has written."""
        run = session.run
        if self.table is None:
            raise ValueError("expected configurations in the checkpoint of --start, got none; start without it")
        phase = SEARCHES[self.settings.bits.method](Search(session, self.table))
        with run.processes.writer_first():
            if run.processes.writes:
                phase.record_result()
            configs = read(run.folder / CONFIGS_FILE)
        run.configs = configs
        del run.modules[SEARCH_NETWORK]
        return configs
