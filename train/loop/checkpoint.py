"""Checkpoints: one safetensors file with all tensors and, as its one entry of metadata, the rest as JSON.

There is no state of random number generators in it: all chance is a function of (seed, phase, epoch, step). A digest
tells a damaged file, which training would otherwise go on from.
"""

import json
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as write
from torch import Tensor, nn

from runtime.files import write_bytes

FORMAT = 4
NAME = "checkpoint/last.safetensors"
ABOUT = "checkpoint"  # name of the entry of metadata
INSIDE = ("full", "search", "joint", "private")  # phases that a checkpoint may be taken in
AFTER_SEARCH = ("joint", "joined", "private", "done")  # phases whose configurations are found


class CheckpointError(ValueError):
    """No checkpoint to go on from, or one of another run; the message says what to do."""


def save(
    folder: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer | None, names: list[str], state: dict
) -> Path:
    """Writes the file. names: those of the optimizer's parameters, in order."""
    tensors = {f"{part}.{name}": t for part, module in modules.items() for name, t in module.state_dict().items()}
    if optimizer is not None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for name, parameter in zip(names, parameters, strict=True):
            tensors |= {f"optimizer.{name}.{k}": t for k, t in optimizer.state[parameter].items()}
    # Copies, since the file's format knows no tensor of two names, which steps of shared weights have.
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    path = folder / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    told = json.dumps(state)
    # One entry, since those of several come in any order, and the same run shall leave the same bytes.
    write_bytes(
        path, write(tensors, {ABOUT: json.dumps({"format": FORMAT, "sha256": _digest(tensors, told), "state": told})})
    )
    return path


def load(folder: Path, flag: str = "--resume") -> tuple[dict[str, Tensor], dict]:
    """(tensors by full name, state). Raises CheckpointError, naming the flag that asked for it, where there is none
    that can be read.
    """
    path = folder / NAME
    if not path.is_file():
        raise CheckpointError(f"{flag}: there is no {path}; start without {flag}, or give the folder of an earlier run")
    try:
        with safe_open(path, "pt") as file:
            about = _about(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); start without {flag}") from error
    if about["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {about['format']}, expected {FORMAT}; start without {flag}")
    if not isinstance(about["state"], str) or about["sha256"] != _digest(tensors, about["state"]):
        raise CheckpointError(
            f"{path} is damaged: expected the bytes that its sha256 tells, got others; bring an "
            f"undamaged copy back, or start without {flag}"
        )
    return tensors, _checked(about["state"], path, flag)


def _about(metadata: dict[str, str]) -> dict:
    """{"format", "sha256", "state"}; of a file that says nothing of the kind, or in an older format, what there is."""
    try:
        about = json.loads(metadata.get(ABOUT, "{}"))
    except ValueError:
        about = None
    return {"format": metadata.get("format"), "sha256": None, "state": "", **(about if isinstance(about, dict) else {})}


def _digest(tensors: dict[str, Tensor], state: str) -> str:
    digest = sha256(state.encode())
    for name, t in sorted(tensors.items()):
        digest.update(f"{name} {t.dtype} {list(t.shape)} ".encode())
        digest.update(t.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _checked(text: str, path: Path, flag: str) -> dict:
    """The state in a checkpoint's metadata; CheckpointError where it is not what `train.loop.keep` writes."""
    try:
        state = json.loads(text)
        phase = state["phase"]
        counts = ["journal", *(("epoch", "step", "counted") if phase in INSIDE else ())]
        wanted = {
            "phase": phase in (*INSIDE, *AFTER_SEARCH),
            "settings": isinstance(state["settings"], dict),
            **{k: type(state[k]) is int and state[k] >= 0 for k in counts},
            "configs": isinstance(state["configs"], dict) or (state["configs"] is None and phase not in AFTER_SEARCH),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: expected a run's state, got {text[:80]!r} ({error!r}); start without {flag}"
        ) from error
    wrong = [f"{k} {str(state[k])[:80]!r}" for k, right in wanted.items() if not right]
    if wrong:
        raise CheckpointError(f"{path}: not a run's state: {', '.join(wrong)}; start without {flag}")
    return state


def fill(module: nn.Module, tensors: dict[str, Tensor], name: str) -> None:
    """Puts the saved tensors of one module into it. Raises CheckpointError where others were saved."""
    saved, wanted = part(tensors, name), module.state_dict()
    differing = [
        k
        for k in sorted(saved.keys() | wanted.keys())
        if k not in saved or k not in wanted or saved[k].shape != wanted[k].shape
    ]
    if differing:
        raise CheckpointError(
            f"the checkpoint does not hold what this run's {name} is made of "
            f"({', '.join(differing[:3])}); it is another version's or of other classes: start "
            "without it"
        )
    module.load_state_dict(saved)


def part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of one module, without its name."""
    return {k.removeprefix(f"{name}."): t for k, t in tensors.items() if k.startswith(f"{name}.")}


def restore_optimizer(optimizer: torch.optim.Optimizer, names: list[str], tensors: dict[str, Tensor]) -> None:
    """Puts the saved moments back, in the layout of their parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, parameter in zip(names, parameters, strict=True):
        saved = part(tensors, f"optimizer.{name}")
        for k, t in saved.items():
            like = torch.empty_like(parameter) if t.shape == parameter.shape and t.dim() else torch.empty_like(t)
            optimizer.state[parameter][k] = like.copy_(t) if k != "step" else t.to(parameter.device)


def check_same_run(saved: dict, now: dict) -> None:
    """Raises CheckpointError naming the settings in which a run differs from the one it would go on with."""
    differing = {k for k in saved.keys() | now.keys() if saved.get(k) != now.get(k)}
    if differing:
        told = ", ".join(f"{k} was {saved.get(k)!r} and is {now.get(k)!r}" for k in sorted(differing))
        raise CheckpointError(f"--resume: settings differ from the checkpoint's: {told}; give the same, or start anew")
