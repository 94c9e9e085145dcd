"""Checkpoints: one safetensors file with all tensors and, as its one entry of metadata, the rest as JSON.

It holds no state of random number generators: each random number is a function of (seed, phase, epoch, step). A digest
reveals a damaged file, from which training would otherwise go on.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from runtime.files import write_bytes
from train.loop.run_folder import CHECKPOINT_FILE, CheckpointError, require_checkpoint
from train.loop.state import CheckpointState

CHECKPOINT_FORMAT = 4
METADATA_ENTRY = "checkpoint"  # the one entry of the file's metadata


def save_checkpoint(
    folder: Path,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer | None,
    names: list[str],
    state: CheckpointState,
) -> Path:
    """Writes the checkpoint of a run's folder in place of the one before, and returns its path.

    names: of the optimizer's parameters, in its order; unused without an optimizer.
    """
    tensors = {f"{part}.{name}": t for part, module in modules.items() for name, t in module.state_dict().items()}
    if optimizer is not None:
        for name, parameter in zip(names, _parameters(optimizer), strict=True):
            tensors |= {f"optimizer.{name}.{k}": t for k, t in optimizer.state[parameter].items()}
    # Copies, since the file's format knows no tensor of two names, which steps of shared weights have.
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    text = json.dumps(state.to_dict())
    # One entry, since several come in any order, and the same run shall leave the same bytes.
    metadata = json.dumps({"format": CHECKPOINT_FORMAT, "sha256": _digest(tensors, text), "state": text})
    path = folder / CHECKPOINT_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, safetensors_bytes(tensors, {METADATA_ENTRY: metadata}))
    return path


def load_checkpoint(folder: Path, flag: str = "--resume") -> tuple[dict[str, Tensor], CheckpointState]:
    """Returns the tensors [...] of a folder's checkpoint by their full names, and its state.

    Raises CheckpointError, which names the flag that asked for it, where there is none that can be read.
    """
    require_checkpoint(folder, flag)
    path = folder / CHECKPOINT_FILE
    try:
        with safe_open(path, "pt") as file:
            metadata = _metadata(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (the file is no dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); start without {flag}") from error
    if metadata["format"] != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{path} has format {metadata['format']}, expected {CHECKPOINT_FORMAT}; start without {flag}"
        )
    text = metadata["state"]
    if not isinstance(text, str) or metadata["sha256"] != _digest(tensors, text):
        raise CheckpointError(
            f"{path} is damaged: expected the bytes that its sha256 names, got others; bring an undamaged copy back, "
            f"or start without {flag}"
        )
    try:
        return tensors, CheckpointState.from_dict(json.loads(text))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: expected a run's state, got {text[:80]!r} ({error}); start without {flag}"
        ) from error


def fill_module(module: nn.Module, tensors: dict[str, Tensor], name: str) -> None:
    """Puts the saved tensors [...] of the module called `name` into it.

    Raises CheckpointError where the tensors saved under this name have other names or shapes than the module's.
    """
    saved = tensors_of(tensors, name)
    expected = module.state_dict()
    differing = [
        k
        for k in sorted(saved.keys() | expected.keys())
        if k not in saved or k not in expected or saved[k].shape != expected[k].shape
    ]
    if differing:
        raise CheckpointError(
            f"the checkpoint does not hold what this run's {name} network is made of ({', '.join(differing[:3])}); it "
            "is another version's or of other classes: start without it"
        )
    module.load_state_dict(saved)


def tensors_of(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Returns the tensors [...] whose names begin with a module's, by the rest of their names."""
    return {k.removeprefix(f"{name}."): t for k, t in tensors.items() if k.startswith(f"{name}.")}


def restore_optimizer(optimizer: torch.optim.Optimizer, names: list[str], tensors: dict[str, Tensor]) -> None:
    """Puts the saved moments [...] back into an optimizer, in the memory layout of their parameters."""
    for name, parameter in zip(names, _parameters(optimizer), strict=True):
        for k, saved in tensors_of(tensors, f"optimizer.{name}").items():
            if k == "step":
                optimizer.state[parameter][k] = saved.to(parameter.device)
                continue
            like_parameter = saved.shape == parameter.shape and saved.dim() > 0
            empty = torch.empty_like(parameter if like_parameter else saved)
            optimizer.state[parameter][k] = empty.copy_(saved)


def check_same_run(saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises CheckpointError naming the settings in which a run differs from the one it would go on with."""
    differing = sorted(k for k in saved.keys() | now.keys() if saved.get(k) != now.get(k))
    if differing:
        changes = ", ".join(f"{k} was {saved.get(k)!r} and is {now.get(k)!r}" for k in differing)
        threads = " (OMP_NUM_THREADS sets the threads, of which another number gives other sums)"
        hint = threads if "threads" in differing else ""
        raise CheckpointError(
            f"--resume: settings differ from the checkpoint's: {changes}; give the same{hint}, or start anew"
        )


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """All parameters of an optimizer, in its order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _metadata(metadata: dict[str, str]) -> dict[str, Any]:
    """The format, sha256 and state in a file's metadata; what a foreign or older file lacks is None or empty."""
    try:
        entry = json.loads(metadata.get(METADATA_ENTRY, "{}"))
    except ValueError:
        entry = None
    before = {"format": metadata.get("format"), "sha256": None, "state": ""}  # formats up to 3 had it outside
    return {**before, **(entry if isinstance(entry, dict) else {})}


def _digest(tensors: dict[str, Tensor], state: str) -> str:
    """The sha256 of a checkpoint's state and of its tensors' names, types, shapes and bytes."""
    digest = sha256(state.encode())
    for name, t in sorted(tensors.items()):
        digest.update(f"{name} {t.dtype} {list(t.shape)} ".encode())
        digest.update(t.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
