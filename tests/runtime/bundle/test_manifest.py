"""A manifest is read as it was written, or refused: whatever its text, its fields and its bits become."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.bundle.manifest import parse, signed
from runtime.fields import BundleError
from tests.runtime.changes import read_manifest

pytestmark = pytest.mark.slow


def paths_of(value, path=()):
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from paths_of(value[key], (*path, key))
    elif isinstance(value, list):
        for i in range(len(value)):
            yield from paths_of(value[i], (*path, i))


def replaced(value, path, new):
    if not path:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = replaced(value[path[0]], path[1:], new)
    return copied


def without(value, path):
    copied = dict(value) if isinstance(value, dict) else list(value)
    if len(path) == 1:
        del copied[path[0]]
    else:
        copied[path[0]] = without(value[path[0]], path[1:])
    return copied


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-2, 300)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([1 << 31, 1 << 70, -1, "../x", "0" * 64, 1e300, float("nan")]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(data=st.data())
def test_any_mutation_of_the_manifest_opens_or_is_refused(small_bundle, data):
    """Whatever one or two fields become, parsing ends with a manifest or a BundleError, never with anything else."""
    manifest = read_manifest(small_bundle)
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(list(paths_of(manifest))))
        if path and data.draw(st.booleans()):
            manifest = without(manifest, path)
        else:
            manifest = replaced(manifest, path, data.draw(JSON))
        if not isinstance(manifest, dict):
            break
    try:
        parsed = parse(json.dumps(signed(manifest) if isinstance(manifest, dict) else manifest).encode())
    except BundleError as error:
        assert "manifest.json" in str(error)
    else:
        stored = parsed.files["weights.bin"].bytes
        for v in parsed.variants:
            assert [b.level for b in v.builds] == [level.name for level in parsed.target.levels]
            for b in v.builds:
                assert all(s.offset + s.stored <= stored and s.at + s.count <= b.weights_bytes for s in b.segments)
                assert b.table_offset + b.table_bytes <= parsed.files["tables.bin"].bytes


@given(text=st.binary(max_size=40) | st.sampled_from([b"[" * 100000, b"1" * 5000, b"\xff\xfe{}"]))
def test_any_text_is_refused(text):
    with pytest.raises(BundleError):
        parse(text)


OPTIONAL = ("onnx", "transform", "budget", "scores")  # fields that bundles of older versions lack


def test_each_field_is_required(small_bundle):
    manifest = read_manifest(small_bundle)
    free = {"bits", "accuracy", "producer"}  # tables whose keys are names
    for at in [p for p in paths_of(manifest) if p and isinstance(p[-1], str)]:
        if free & set(at[:-1]) or (at[0] == "files" and len(at) == 2) or at[-1] in OPTIONAL:
            continue
        with pytest.raises(BundleError):
            parse(json.dumps(without(manifest, at) if at == ("sha256",) else signed(without(manifest, at))).encode())


def test_every_flipped_bit_of_the_manifest_is_told(small_bundle):
    """Those of a label, of an accuracy or of the name of a field that may be left out fit every field."""
    text = (small_bundle / "manifest.json").read_bytes()
    good = parse(text)
    for at in range(0, len(text), 1 + len(text) // 2000):
        for bit in range(8):
            flipped = text[:at] + bytes([text[at] ^ 1 << bit]) + text[at + 1 :]
            try:
                assert parse(flipped) == good, f"bit {bit} of byte {at}: {text[at - 20 : at + 20]}"
            except BundleError as error:
                assert "manifest.json" in str(error)
    with pytest.raises(BundleError, match="its content changed, expected sha256 .*copy the whole bundle folder"):
        parse(text.replace(b'"0"', b'"O"', 1))
