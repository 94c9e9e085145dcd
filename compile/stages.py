"""The stages of a build after the networks are open: lower, compile, time, verify, write; see compile/build.py."""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compile.bundle.libraries import Libraries
from compile.bundle.look import CompiledLook, compile_look, differences
from compile.bundle.writer import CompiledVariant, write_contents
from compile.dump import dump_kernels, dump_times, dump_verification
from compile.lowering.lower import Lowered, lower, table_of_rules
from compile.report import BuildListener, VariantReport
from compile.settings import BuildSettings
from compile.source.opened import BuildVariant, Source
from compile.times.layer_table import LayerTable, NetworkCode, make_layer_table
from compile.times.machine import missing_features
from compile.verify import Rung, verify_variant
from runtime.version import VERSION
from targets import Target

# packages whose versions the manifest names
VERSIONED_PACKAGES = ("apache-tvm", "apache-tvm-ffi", "numpy", "onnx", "onnxruntime")


@dataclass(frozen=True, eq=False)
class LoweredVariant:
    """A variant with its kernels for each of `target.compiled_for`."""

    source: BuildVariant
    levels: list[Lowered]


@dataclass(frozen=True, eq=False)
class Compilation:
    """The variants and the look with their code, and the libraries that hold it."""

    variants: list[CompiledVariant]
    libraries: Libraries
    look: CompiledLook

    def code_of(self, variant: CompiledVariant) -> str:
        """Returns the first variant with the same library."""
        return next(v.source.name for v in self.variants if v.library == variant.library)


def open_libraries(settings: BuildSettings, folder: Path) -> Libraries:
    """Returns the bundle's libraries, none yet; raises TargetError where nothing here can check the target's code."""
    libraries = Libraries(settings.target, folder, settings.dump, settings.source_only)
    libraries.require_some_level()
    return libraries


def lower_variants(settings: BuildSettings, source: Source) -> list[LoweredVariant]:
    """Chooses kernels, packs weights and makes TIR of every variant for every level; raises what `lower` raises."""
    variants = []
    for variant in source.variants:
        levels = [lower(variant.graph, level, settings.batch) for level in settings.target.compiled_for]
        variants.append(LoweredVariant(variant, levels))
        if settings.dump:
            dump_kernels(settings.dump, variant, settings.target, levels)
    return variants


def compile_variants(
    source: Source, variants: list[LoweredVariant], libraries: Libraries, listener: BuildListener
) -> Compilation:
    """Compiles TIR into libraries, one for each distinct code and one for the look; raises what toolchains raise."""
    compilation = Compilation([], libraries, compile_look(source, libraries))
    for index, variant in enumerate(variants, 1):
        library = libraries.add(variant.source.name, variant.levels)
        compiled = CompiledVariant(variant.source, variant.levels, library)
        compilation.variants.append(compiled)
        listener.on_compile(variant.source.name, compilation.code_of(compiled), index, len(variants))
    return compilation


def time_variants(settings: BuildSettings, compilation: Compilation) -> list[VariantReport]:
    """Predicts and measures the times of layers, for each distinct code, or each variant where that is wanted."""
    reports = []
    for variant in compilation.variants:
        code_of = compilation.code_of(variant)
        tables: list[LayerTable] = []
        if code_of == variant.source.name or settings.every_table or settings.dump:
            tables = _layer_tables(settings, variant, compilation.libraries.folder)
        if settings.dump:
            dump_times(settings.dump, variant.source, [table.to_dict() for table in tables])
        reports.append(_variant_report(variant.source, code_of, tables))
    return reports


def _layer_tables(settings: BuildSettings, variant: CompiledVariant, folder: Path) -> list[LayerTable]:
    """A table for each set of levels that take the same kernels, timed on one that runs here."""
    graph, target = variant.source.graph, settings.target
    alike: dict[tuple[str, ...], list[tuple[Target, Lowered]]] = {}
    for level, lowered in zip(target.compiled_for, variant.lowered, strict=True):
        rules = tuple(rule for _, rule, _, _ in table_of_rules(graph, lowered))
        alike.setdefault(rules, []).append((level, lowered))
    tables = []
    for pairs in alike.values():
        level, lowered = next((pair for pair in pairs if not missing_features(pair[0])), pairs[0])
        code = NetworkCode(graph, level, lowered, folder / variant.library, "main" + target.suffix(level))
        tables.append(make_layer_table(code, tuple(level.name for level, _ in pairs), settings.times))
    return tables


def _variant_report(source: BuildVariant, code_of: str, tables: list[LayerTable]) -> VariantReport:
    facts = source.facts
    accuracy = float(np.mean(list(facts.accuracy.values()))) if facts.accuracy else None
    return VariantReport(source.name, code_of, facts.bits, facts.macs, facts.cost, accuracy, tuple(tables))


def verify_variants(settings: BuildSettings, source: Source, compilation: Compilation) -> list[Rung]:
    """Climbs the ladder with every variant; what does not hold is for the caller to raise."""
    rungs: list[Rung] = []
    for variant in compilation.variants:
        codes = compilation.libraries.level_codes(variant.library, variant.lowered)
        rungs += verify_variant(variant.source, source.pictures, codes, settings.golden)
    rungs += _verify_look(compilation.look, compilation.libraries, settings.golden)
    if settings.dump:
        lines = [
            f"{r.variant}: {r.compared}, demands {r.demand}: {r.result} ({r.pictures} pictures, {r.differing} of "
            f"{r.logits} logits differ)"
            for r in rungs
        ]
        dump_verification(settings.dump, lines)
    return rungs


def _verify_look(look: CompiledLook, libraries: Libraries, count: int) -> list[Rung]:
    """Returns a rung for each level: the integers of the look's code, over `count` golden pictures, against numpy's."""
    rungs = []
    for level in look.target.compiled_for:
        compared = differing = 0
        if libraries.look_here(level):
            library = libraries.folder / look.library
            compared, differing = differences(look, library, level, look.target.suffix(level), count)
        rungs.append(Rung("look", level.name, count, compared, differing, 0))
    return rungs


def write_variants(source: Source, compilation: Compilation) -> None:
    """Writes all else that the bundle holds; raises OSError where that cannot be written."""
    libraries = compilation.libraries
    versions = {name: importlib.metadata.version(name) for name in VERSIONED_PACKAGES}
    producer: dict[str, Any] = {"bitgrade": VERSION, **versions, "built": libraries.facts}
    write_contents(libraries.folder, source, compilation.variants, compilation.look, producer)
