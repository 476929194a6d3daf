"""A digest of rows by content: the same for a stream from Postgres, a file read back, and a table restored.

It works on Arrow data and knows neither servers nor files.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import rfc8785
from xxhash import xxh3_128

_FORMAT: Final = "tierkeeper content digest 2"


class ContentDigest:
    """Digest of a sequence of rows, whatever the record batches they come in.

    Running hashes a column (places of NULLs, lengths, values) make it independent of chunk boundaries without holding a row.
    Bits count (-0.0 is not 0.0); what lies under a NULL does not, nor does which of its NaNs the processor chose, as in Postgres.
    It guards against faults, not against an adversary: whoever could forge a collision is kept out by the file's own seal.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema.remove_metadata()
        self._columns = [_ColumnDigest(f.type) for f in schema]
        self.rows = 0

    @classmethod
    def joined(cls, schema: pa.Schema, parts: Sequence["ContentDigest"]) -> "ContentDigest":
        """Of rows of `schema`, from digests of some of their columns each. Raises ValueError unless every column of `schema` was
        digested once, and all of as many rows.
        """
        whole, found = cls(schema), [one for part in parts for one in zip(part.schema, part._columns, strict=True)]
        at = {field.name: column for field, column in found}
        if len(found) != len(schema) or {f for f, _ in found} != set(whole.schema) or len({part.rows for part in parts}) > 1:
            raise ValueError(f"no digests of the columns {whole.schema}")
        whole._columns = [at[name] for name in schema.names]
        whole.rows = parts[0].rows if parts else 0
        return whole

    def update(self, batch: pa.RecordBatch) -> None:
        """Counts `batch` in. Its columns must be those of the schema, in order and type."""
        if batch.schema.types != self.schema.types or batch.schema.names != self.schema.names:
            raise ValueError(f"expected columns {self.schema}, got {batch.schema}")
        for column, array in zip(self._columns, batch.columns, strict=True):
            column.update(array, self.rows)
        self.rows += batch.num_rows

    def hexdigest(self) -> str:
        """64 hex digits over names, types, the number of rows, and every value in order."""
        columns = [[f.name, str(f.type), *c.hexdigests()] for f, c in zip(self.schema, self._columns, strict=True)]
        return blake2b(rfc8785.dumps({"format": _FORMAT, "rows": self.rows, "columns": columns}), digest_size=32).hexdigest()

    def same_as(self, other: "ContentDigest") -> bool:
        """Whether both saw the same rows in the same order: what equal `hexdigest`s say, without writing them out."""
        hashes = ([c.hexdigests() for c in one._columns] for one in (self, other))
        return self.schema == other.schema and self.rows == other.rows and next(hashes) == next(hashes)


class _ColumnDigest:
    def __init__(self, type_: pa.DataType) -> None:
        self._type = type_
        self._filler = _zero(type_)
        self._hashes = [xxh3_128() for _ in range(3)]

    def hexdigests(self) -> list[str]:
        return [h.hexdigest() for h in self._hashes]

    def update(self, array: pa.Array, before: int) -> None:
        """Counts in `array`, which `before` rows came before."""
        nulls, lengths, values = self._hashes
        if array.null_count:
            nulls.update(_fixed(pc.add(pc.indices_nonzero(array.is_null()), _number(before))))
        if pa.types.is_string(self._type):
            filled = array.fill_null(self._filler) if array.null_count else array
            lengths.update(_fixed(pc.binary_length(filled)))
            values.update(_text(filled))
        else:
            values.update(_fixed(self._plain(array)))

    def _plain(self, array: pa.Array) -> pa.Array:
        """Fixed-width values with one pattern under every NULL and one for every NaN."""
        if pa.types.is_floating(self._type):
            nan = pc.is_nan(array)
            if pc.any(nan).as_py():
                array = pc.if_else(nan, pa.scalar(float("nan"), self._type), array)
        elif pa.types.is_boolean(self._type):
            array = array.cast(pa.uint8())
        elif pa.types.is_temporal(self._type):
            array = array.view(self._filler.type)
        return array.fill_null(self._filler) if array.null_count else array


def _zero(type_: pa.DataType) -> pa.Scalar:
    """What lies under a NULL for the digest: '' for text, 0 for all else as `_ColumnDigest` sees it.

    Made of bytes: Arrow asks for pandas, if that is installed, before it makes a scalar of a Python value, and loading it takes
    longer than to digest a hundred thousand rows.
    """
    if pa.types.is_string(type_):
        return pa.Array.from_buffers(type_, 1, [None, pa.py_buffer(bytes(8)), pa.py_buffer(b"")])[0]
    if pa.types.is_boolean(type_):
        type_ = pa.uint8()
    elif pa.types.is_temporal(type_):
        type_ = pa.int32() if type_.bit_width == 32 else pa.int64()  # noqa: PLR2004
    return pa.Array.from_buffers(type_, 1, [None, pa.py_buffer(bytes(8))])[0]


def _number(value: int) -> pa.Scalar:
    return pa.Array.from_buffers(pa.uint64(), 1, [None, pa.py_buffer(value.to_bytes(8, "little"))])[0]


def _fixed(array: pa.Array) -> memoryview:
    width = array.type.bit_width // 8
    start = array.offset * width
    return _view(array.buffers()[1])[start : start + len(array) * width]


def _text(array: pa.Array) -> memoryview:
    _, offsets, values = array.buffers()
    if not len(array):
        return memoryview(b"")
    ends = _view(offsets).cast("i")
    return _view(values)[ends[array.offset] : ends[array.offset + len(array)]]


def _view(buffer: pa.Buffer | None) -> memoryview:
    return memoryview(buffer if buffer is not None else b"").cast("B")
