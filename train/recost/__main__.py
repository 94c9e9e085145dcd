"""Chooses anew among the variants of a finished run: `python -m train.recost RUN --out DIR`."""

from compile.source.run_folder import require_run
from runtime.terminal import fail, say, terminal
from train.recost.command_line import parse


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line, and ends the program with one line where that fails."""
    run, out, changes = parse(arguments)
    try:
        require_run(run)
        # Here, so that a wrong command line or folder is told before torch has loaded.
        from train.recost.recost import recost

        say(f"run: {recost(run, out, changes)}")
    except (ValueError, OSError) as error:
        fail(str(error))


if __name__ == "__main__":
    with terminal():
        main()
