"""Arrays of numbers <-> bytes, to the bit, and what else decides over the last bit of a result."""

import math
from typing import Any, Final

import numpy as np

from tychod.codec.stream import Array, CodecError, Coder, Reader, Writer, as_list
from tychod.schema import show

DTYPES: Final = {np.dtype(code).str: np.dtype(code) for code in "?bBhHiIlLfd"}
"""Truth values, signed and unsigned whole numbers, and floating point numbers, by their names."""
WHOLE: Final = np.dtype(np.int64).str
MOST_DIMENSIONS: Final = 8
FAULTS: Final = (ArithmeticError, LookupError, TypeError, ValueError, np.linalg.LinAlgError)
"""What computing with numbers that nobody measured may raise."""


def array_coder(site: str) -> Coder:
    """Return the coder of arrays; ``site``: the field whose arrays resemble one another."""

    def write(array: Array, writer: Writer) -> bytes:
        if (number := writer.known(array)) is not None:
            return number
        if array.dtype.str not in DTYPES:
            raise TypeError(f"{site}: arrays of {array.dtype} have no form in a recording")
        return writer.define(array, _write(array, site, writer), None)

    def read(plain: Any, reader: Reader) -> object:
        if type(plain) is int:
            return reader.look_up(plain, WHOLE)
        return reader.define(WHOLE, _read(as_list(plain, 5), site, reader))

    return Coder(write, read, refers=True)


def _write(array: Array, site: str, writer: Writer) -> bytes:
    told = array
    differs = array.dtype.str == WHOLE and not writer.canonical
    if differs:
        told = array - _base(writer.arrays.get(site), array.shape)
        writer.arrays[site] = array
    # A sum over an array may depend on its layout in the last bit.
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    data = told.tobytes("F" if fortran else "C")
    return writer.pack([array.dtype.str, list(array.shape), fortran, differs, data])


def _read(plain: list[Any], site: str, reader: Reader) -> Array:
    name, shape, fortran, differs, data = plain
    array = _array(name, shape, data).reshape(shape, order="F" if fortran else "C")
    if differs:
        array = array + _base(reader.arrays.get(site), array.shape)
    array = np.array(array, order="F" if fortran else "C")
    array.setflags(write=False)
    if differs:
        reader.arrays[site] = array
    return array


def _array(name: Any, shape: Any, data: Any) -> Array:
    """Return the numbers of an array in one row; raise ``CodecError`` where they do not fit."""
    dtype = DTYPES.get(name) if type(name) is str else None
    if dtype is None or type(data) is not bytes:
        raise CodecError(f"is an array of {show(name)}")
    if not all(type(n) is int and n >= 0 for n in as_list(shape)) or len(shape) > MOST_DIMENSIONS:
        raise CodecError(f"has the shape {show(shape)}")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise CodecError(f"has {len(data)} bytes for the shape {show(shape)}")
    return np.frombuffer(data, dtype)


def _base(before: Array | None, shape: tuple[int, ...]) -> Array:
    """Return an array as near as can be to one of this shape: the one before it, cut or padded."""
    if before is not None and before.shape == shape:
        return before
    base = np.zeros(shape, np.int64)
    if before is not None and before.ndim == len(shape):
        common = tuple(slice(min(a, b)) for a, b in zip(before.shape, shape, strict=True))
        base[common] = before[common]
    return base


def numpy_build() -> dict[str, str]:
    """Return what decides over the last bit of a result: numpy's version, BLAS and instructions."""
    found = {"version": np.__version__, "blas": "unknown", "simd": "unknown"}
    config: Any = getattr(np.__config__, "CONFIG", None)
    if config is None:  # before 1.25
        named: Any = getattr(np.__config__, "get_info", dict[str, Any]().get)("blas_opt")
        found["blas"] = " ".join((named or {}).get("libraries", ["unknown"]))
    else:
        blas = config.get("Build Dependencies", {}).get("blas", {})
        found["blas"] = f"{blas.get('name')} {blas.get('version')}"
        found["simd"] = " ".join(config.get("SIMD Extensions", {}).get("found", []))
    return found
