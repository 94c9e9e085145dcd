"""Changes the manifests of bundles, and reads how bundles are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from runtime import BundleError, open_bundle
from runtime.bundle.manifest import signed


def read_manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    (folder / "manifest.json").write_text(json.dumps(signed(manifest)))


def rewrite(folder: Path, **changes: Any) -> None:
    """Changes fields of the manifest; a key a__b is field b of field a."""
    manifest = read_manifest(folder)
    for key, value in changes.items():
        *path, last = key.split("__")
        place = manifest
        for part in path:
            place = place[part]
        place[last] = value
    write_manifest(folder, manifest)


def refusal(folder: Path, **options: bool) -> str:
    """The error with which a bundle is refused, which names the folder."""
    with pytest.raises(BundleError) as caught:
        open_bundle(folder, **options)
    assert str(folder) in str(caught.value)
    return str(caught.value)
