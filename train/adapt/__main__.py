"""Adapts a network to pictures of every quality: `python -m train.adapt NETWORK --pictures FOLDER --out RUN`."""

from collections.abc import Sequence

from runtime.terminal import fail, terminal
from train.adapt.command_line import AdaptRequest, parse
from train.loop.run_folder import EVALUATION, alone, check_own, check_writable, clear


def run_adaptation(request: AdaptRequest) -> None:
    """Adapts and writes one run. Raises ValueError (SettingsError, CalibrationError, ...) or OSError."""
    check_own(request.out)
    # Imported here, so that a wrong command line is refused before torch has loaded.
    from compile.source.opened import read_labels
    from train.adapt.adapt import adapt
    from train.adapt.pictures import read_pictures
    from train.adapt.source import open_source

    settings = request.settings
    source = open_source(
        request.network,
        arch=request.arch,
        classes=request.classes,
        size=request.size,
        preprocessing=settings.preprocessing,
    )
    labels = [f"class {i}" for i in range(source.classes)] if request.labels is None else read_labels(request.labels)
    if len(labels) != source.classes:
        raise ValueError(f"--labels {request.labels}: expected {source.classes} lines, one a class, got {len(labels)}")
    counts = (settings.fitted, settings.judged_at(min(source.size)))
    classes = source.classes if request.labelled else None
    pictures = read_pictures(request.pictures, source.size, source.crop, counts, classes)
    check_writable("--out", request.out)
    with alone(request.out):
        clear(request.out, keep=(EVALUATION,))
        adapt(source, pictures, settings, labels, request.out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line, and ends the program with one line where that fails."""
    request = parse(arguments)
    try:
        run_adaptation(request)
    except (ValueError, OSError) as error:
        fail(str(error))


if __name__ == "__main__":
    with terminal("; the same command goes on from what is done"):
        main()
