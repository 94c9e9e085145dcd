"""Compiles a run's variants for one target: `python -m compile.build [RUN | FILE ...] [--target x86|arm|cuda]`.

A build goes through these stages, in this order; --dump DIR leaves readable files of each (compile/dump.py):

    calibrate float ONNX files and pictures -> quantized ONNX files (where asked)  compile/calibrate
    open      run folder or files       ->  integer graphs, golden pictures      compile/source, qdq, tflite
    lower     integer graphs            ->  kernels, packed weights, TIR         compile/lowering, targets
    compile   TIR                       ->  one library for each distinct code   compile/bundle/libraries.py
    time      kernels                   ->  predicted and measured times         compile/times
    verify    golden pictures           ->  the verification ladder              compile/verify.py
    write     all of it                 ->  the bundle                           compile/bundle/writer.py
"""

import sys
from collections.abc import Sequence
from functools import partial

from compile.bundle.folder import new_bundle
from compile.calibrate.files import CalibratedFile, calibrate_file
from compile.command_line import parse_build
from compile.dump import dump_calibration, dump_graph
from compile.page.page import write_page
from compile.printing import BuildPrinter
from compile.report import BuildListener, BuildReport
from compile.settings import BuildError, BuildSettings
from compile.source.opened import Source, newest_run, open_source, read_labels
from runtime.terminal import terminal


def build(settings: BuildSettings, listener: BuildListener | None = None) -> BuildReport:
    """Builds a bundle and returns what came of it; every error is a ValueError or OSError that says what to do.

    listener: is told of each stage that is done, such as compile.printing.BuildPrinter.
    """
    settings.require_files()
    listener = listener or BuildListener()
    source = open_networks(settings, listener)
    # Here, so that wrong settings and files are told before TVM has loaded.
    from compile import stages

    bundle = settings.place_for(source.name)
    listener.on_open(source, settings.target.name, bundle)
    with new_bundle(bundle) as folder:
        libraries = stages.open_libraries(settings, folder)
        lowered = stages.lower_variants(settings, source)
        compilation = stages.compile_variants(source, lowered, libraries, listener)
        variants = stages.time_variants(settings, compilation)
        listener.on_times(variants)
        rungs = stages.verify_variants(settings, source, compilation)
        listener.on_verify(rungs)
        _require_all(settings, BuildReport(bundle, settings.target.name, 0, tuple(variants), tuple(rungs)))
        stages.write_variants(source, compilation)
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    report = BuildReport(bundle, settings.target.name, size, tuple(variants), tuple(rungs))
    listener.on_write(report)
    if settings.report:
        write_page(settings.report, report)
    return report


def _require_all(settings: BuildSettings, report: BuildReport) -> None:
    """Raises VerificationError where a rung does not hold, once the page that shows it is written."""
    if settings.report and not all(rung.holds for rung in report.rungs):
        write_page(settings.report, report)
    for rung in report.rungs:
        rung.require()


def open_networks(settings: BuildSettings, listener: BuildListener) -> Source:
    """Reads the run or files, float ones calibrated; raises SourceError, OnnxError, TfliteError, CalibrationError."""
    paths = list(settings.sources)
    labels = None if settings.labels is None else read_labels(settings.labels)
    if settings.calibration is None:
        source = open_source(paths or [newest_run()], settings.normalization, labels, settings.form)
    else:
        files = calibrated_files(settings, listener)
        source = open_source([file.path for file in files], None, labels, pictures=files[0].pictures)
    if settings.dump:
        for variant in source.variants:
            dump_graph(settings.dump, variant)
    return source


def calibrated_files(settings: BuildSettings, listener: BuildListener) -> list[CalibratedFile]:
    """Quantizes float ONNX files, each beside the bundle; raises BuildError where there are none."""
    if settings.calibration is None or not settings.sources or any(path.is_dir() for path in settings.sources):
        raise BuildError("--calibrate: expected float .onnx files to calibrate, got none; name them")
    files = []
    for path in settings.sources:
        tell = partial(listener.on_calibrate, path.stem)
        file = calibrate_file(path, settings.calibration, settings.quantized_files, tell)
        listener.on_calibrated(file.report)
        if settings.dump:
            dump_calibration(settings.dump, file.path.stem, file.report)
        files.append(file)
    return files


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 2 after one line that says what went wrong."""
    settings = parse_build(arguments)
    try:
        build(settings, BuildPrinter(verbose=settings.every_table))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    with terminal():
        status = main()
    sys.exit(status)
