"""Training passes as fused code: torch.compile makes one forward and one backward graph of every variant."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

MOST_VARIANTS = 64  # graphs of one network; more would take hours to compile


class FusingError(ValueError):
    """torch.compile could not make fused code; the message says why and what to do."""


@contextmanager
def fused(*networks: nn.Module) -> Iterator[None]:
    """Runs all calls of the networks inside as fused code, compiled at the first call of each variant (a minute).

    The operations are the same but for the order of sums and the last bit of functions such as exp. Raises FusingError
    where there is no compiler for it, and for more than MOST_VARIANTS variants.
    """
    limits = {"recompile_limit": MOST_VARIANTS, "accumulated_recompile_limit": 4 * MOST_VARIANTS}
    with torch._dynamo.config.patch({"capture_scalar_outputs": True, **limits}):
        for net in networks:
            # mypy: a method of one instance is replaced on purpose, and given back below.
            net.forward = torch.compile(net.forward, fullgraph=True, dynamic=False)  # type: ignore[method-assign]
        try:
            yield
        except torch._dynamo.exc.FailOnRecompileLimitHit as error:
            raise FusingError(
                f"--torch-compile: expected at most {MOST_VARIANTS} variants, got more; train fewer variants together, "
                "or train without it"
            ) from error
        except torch._dynamo.exc.TorchDynamoException as error:
            raise FusingError(
                f"--torch-compile: expected torch.compile to make fused code, got {_root_cause(error)!r}; it needs a "
                "C++ compiler and Python's headers (apt install g++ python3-dev), on a GPU triton; or train without "
                "it, which is slower"
            ) from error
        finally:
            for net in networks:
                del net.forward


def _root_cause(error: BaseException) -> str:
    """The first line of the error that all others in a chain of causes came from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".splitlines()[0]
