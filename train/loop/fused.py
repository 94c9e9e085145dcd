"""Training passes as fused code: torch.compile makes one forward and one backward graph of every variant."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

MOST_VARIANTS = 64  # graphs at most; more would take hours to make


class FusingError(ValueError):
    """torch.compile could not make the code; the message says why and what to do."""


@contextmanager
def fused(*networks: nn.Module | None) -> Iterator[None]:
    """Inside, calls of the networks run as fused code, made at the first call of each variant, which takes a minute.

    The same operations, but for the order of sums and the last bit of functions such as exp. Raises FusingError where
    there is no compiler for it, and for more than MOST_VARIANTS of them.
    """
    nets = [net for net in networks if net is not None]
    limits = {"recompile_limit": MOST_VARIANTS, "accumulated_recompile_limit": 4 * MOST_VARIANTS}
    with torch._dynamo.config.patch(capture_scalar_outputs=True, **limits):
        for net in nets:
            net.forward = torch.compile(net.forward, fullgraph=True, dynamic=False)
        try:
            yield
        except torch._dynamo.exc.FailOnRecompileLimitHit as error:
            raise FusingError(
                f"--torch-compile: expected at most {MOST_VARIANTS} variants, got more; "
                "train fewer variants together, or train without it"
            ) from error
        except torch._dynamo.exc.TorchDynamoException as error:
            raise FusingError(
                f"--torch-compile: expected torch.compile to make fused code, got {_last(error)!r}; it "
                "needs a C++ compiler and Python's headers (apt install g++ python3-dev), on a GPU "
                "triton; or train without it, which is slower"
            ) from error
        finally:
            for net in nets:
                del net.forward


def _last(error: BaseException) -> str:
    """The first line of what is at the bottom of an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".splitlines()[0]
