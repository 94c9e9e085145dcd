"""What a file's own metadata says of its picture (the NormalizationOptions of TFLite's metadata schema).

The schema is not part of the file's, so that its few tables are read by the numbers of their fields:
https://github.com/tensorflow/tflite-support/blob/master/tensorflow_lite_support/metadata/metadata_schema.fbs
"""

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from compile.tflite.records import Normalized

SUBGRAPHS, INPUTS, PROCESS_UNITS = 3, 2, 4  # fields of ModelMetadata, SubGraphMetadata, TensorMetadata
OPTIONS_TYPE, OPTIONS = 0, 1  # of ProcessUnit
MEAN, STD = 0, 1  # of NormalizationOptions
NORMALIZATION = 1  # the number of NormalizationOptions in their union
MOST_UNITS = 64


def read_normalized(metadata: bytes | None) -> Normalized | None:
    """Returns how the picture is normalized; None where the metadata does not say, or cannot be read."""
    if metadata is None:
        return None
    try:
        return _normalized(metadata)
    except (struct.error, LookupError, TypeError, ValueError):
        return None


def _normalized(data: bytes) -> Normalized | None:
    from flatbuffers import encode, number_types
    from flatbuffers.table import Table

    root = Table(data, encode.Get(number_types.UOffsetTFlags.packer_type, data, 0))
    pictures = (picture for graph in _tables(root, SUBGRAPHS, 1) for picture in _tables(graph, INPUTS, 1))
    for unit in (unit for picture in pictures for unit in _tables(picture, PROCESS_UNITS, MOST_UNITS)):
        kind, options = unit.Offset(_slot(OPTIONS_TYPE)), unit.Offset(_slot(OPTIONS))
        if kind and options and unit.Get(number_types.Uint8Flags, kind + unit.Pos) == NORMALIZATION:
            table = Table(data, 0)
            unit.Union(table, options)
            mean, std = _floats(table, MEAN), _floats(table, STD)
            usable = np.isfinite([*mean, *std]).all() and min(std, default=0) > 0 and len(mean) == len(std)
            return Normalized(mean, std) if usable else None
    return None


def _slot(field: int) -> int:
    """Where a table's directory has a field."""
    return 4 + 2 * field


def _tables(table: Any, field: int, most: int) -> Iterator[Any]:
    """The first tables of a vector of tables."""
    offset = table.Offset(_slot(field))
    for i in range(min(most, table.VectorLen(offset)) if offset else 0):
        yield type(table)(table.Bytes, table.Indirect(table.Vector(offset) + 4 * i))


def _floats(table: Any, field: int) -> tuple[float, ...]:
    from flatbuffers.number_types import Float32Flags

    offset = table.Offset(_slot(field))
    return tuple(table.GetVectorAsNumpy(Float32Flags, offset).tolist()) if offset else ()
