"""Vector instructions that compiled tiles use, chosen by what the CPU supports.

A vector in this module has sixteen lanes: one register of AVX-512, or two registers of a CPU with half that width.

Source: Intel's instruction set reference, VPDPBUSD, VPSIGNB, VPMADDUBSW and VPMADDWD.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.base import BaseContext

from serve_app.model.backends.cpu.llvm import Builder, Typed, Value, Values, intrinsic
from serve_app.model.backends.cpu.parts import Function, config, part

LANES = 16
"""Outputs whose sums are side by side in a vector."""

Flavour = Literal["avx512_vnni", "avx_vnni", "avx2", "portable"]
"""How bytes are multiplied and summed."""


def _features() -> Mapping[str, bool]:
    """CPU features that numba compiles for, by LLVM's names."""
    if config.CPU_NAME or config.CPU_FEATURES or not config.ENABLE_AVX:
        return {}  # numba was configured to compile for another CPU
    try:
        return binding.get_host_cpu_features()
    except RuntimeError:  # LLVM does not know this host
        return {}


def this_cpus() -> Flavour:
    """The instructions that this CPU has and that numba compiles for."""
    features = _features()
    if features.get("avx512vnni") and features.get("avx512vl"):
        return "avx512_vnni"
    if features.get("avxvnni"):
        return "avx_vnni"
    return "avx2" if features.get("avx2") else "portable"


WIDE = bool(_features().get("avx512f"))
"""Whether there are 32 registers of 16 lanes, as opposed to 16 registers of 8 lanes."""


def vector_units() -> str:
    """What decides the order of sums on this CPU: the CPU that LLVM compiles for, and its vector width."""
    return f"{config.CPU_NAME or binding.get_host_cpu_name()} ({512 if WIDE else 256} bits)"


TILE, TILE_ROWS = (64, 4) if WIDE else (32, 3)
"""Outputs that are summed together, and rows that share one read of a tile's weights: 16 sums in AVX-512's 32 registers
of 16 lanes, or 12 sums in the 16 registers of 8 lanes of other CPUs."""

_AHEAD = 1024
"""Prefetch distance in bytes. It reduces the time for one row to 0.87 (measured), equally within the noise from 512 to
8192; with more rows it makes no difference."""

_LINE_BYTES = 64

_BIT, BYTE, WORD, LONG = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64)
SUMS = ir.VectorType(WORD, LANES)
REALS = ir.VectorType(ir.FloatType(), LANES)
_HALF_SUMS = ir.VectorType(WORD, LANES // 2)
_HALF_PAIRS = ir.VectorType(ir.IntType(16), LANES)
_HALF_BYTES = ir.VectorType(BYTE, 2 * LANES)

Emit = Callable[[Builder, Values, int], None]
"""``(builder, arguments, rows)`` writes the instructions of a function for a number of rows."""

AddProducts = Callable[[Builder, Value, Value, Value], Value]
"""``(builder, sums, unsigned, signed) -> sums``: adds to each lane the four products of its bytes."""


def splat(value: int) -> Value:
    """An integer in every lane."""
    return ir.Constant(SUMS, [value] * LANES)


def at(builder: Builder, kind: ir.Type, *addends: Value) -> Value:
    """The sum of some numbers, as the address of a ``kind``."""
    total = addends[0]
    for addend in addends[1:]:
        total = builder.add(total, addend)
    return builder.inttoptr(total, kind.as_pointer())


def broadcast(builder: Builder, vector: ir.VectorType, address: Value) -> Value:
    """Read one value into every lane of a ``vector``."""
    value = builder.load(at(builder, vector.element, address), align=4)
    value = builder.insert_element(ir.Constant(vector, ir.Undefined), value, WORD(0))
    return builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(WORD, vector.count), [0] * vector.count))


def fetch(builder: Builder, address: Value) -> None:
    """Prefetch the cache line at an address for reading, and keep it near."""
    _call(builder, "llvm.prefetch.p0", ir.VoidType(), at(builder, BYTE, address), WORD(0), WORD(3), WORD(1))


def fetch_ahead(builder: Builder, address: Value, count: int) -> None:
    """Prefetch that many bytes ahead of an address that moves through memory from front to end."""
    for line in range(count // _LINE_BYTES):
        fetch(builder, builder.add(address, LONG(_LINE_BYTES * line + _AHEAD)))


def multiply_add(builder: Builder, one: Value, other: Value, sums: Value) -> Value:
    """One * other + sums for float32 or vectors of it; rounded once, unless that needs a slow call on this CPU."""
    lanes = f"v{sums.type.count}" if isinstance(sums.type, ir.VectorType) else ""
    return _call(builder, f"llvm.fmuladd.{lanes}f32", sums.type, one, other, sums)


def _call(builder: Builder, name: str, result: ir.Type, *given: Value) -> Value:
    function = ir.FunctionType(result, [each.type for each in given])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), given)


def _in_halves(builder: Builder, of_half: Function, *vectors: Value) -> Value:
    """Apply ``of_half`` to the lower and to the upper eight lanes of some vectors of sixteen."""

    def lanes(vector: Value, first: int) -> Value:
        indices = ir.Constant(_HALF_SUMS, list(range(first, first + LANES // 2)))
        return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), indices)

    low, high = [of_half(*[lanes(each, first) for each in vectors]) for first in (0, LANES // 2)]
    return builder.shuffle_vector(low, high, ir.Constant(SUMS, list(range(LANES))))


def _by_vnni(builder: Builder, sums: Value, unsigned: Value, signed: Value) -> Value:
    return _call(builder, "llvm.x86.avx512.vpdpbusd.512", SUMS, sums, unsigned, signed)


def _by_half_vnni(builder: Builder, sums: Value, unsigned: Value, signed: Value) -> Value:
    def of_half(*half: Value) -> Value:
        return _call(builder, "llvm.x86.avx512.vpdpbusd.256", _HALF_SUMS, *half)

    return _in_halves(builder, of_half, sums, unsigned, signed)


def _by_avx2(builder: Builder, sums: Value, unsigned: Value, signed: Value) -> Value:
    """Sums of two products have 16 bits here, so none may exceed 32767."""

    def of_half(sums: Value, unsigned: Value, signed: Value) -> Value:
        given = [builder.bitcast(each, _HALF_BYTES) for each in (unsigned, signed)]
        pairs = _call(builder, "llvm.x86.avx2.pmadd.ub.sw", _HALF_PAIRS, *given)
        ones = ir.Constant(_HALF_PAIRS, [1] * LANES)
        return builder.add(sums, _call(builder, "llvm.x86.avx2.pmadd.wd", _HALF_SUMS, pairs, ones))

    return _in_halves(builder, of_half, sums, unsigned, signed)


def _portably(builder: Builder, sums: Value, unsigned: Value, signed: Value) -> Value:
    for byte in range(4):
        left, right = splat(24 - 8 * byte), splat(24)
        one = builder.lshr(builder.shl(unsigned, left), right)
        other = builder.ashr(builder.shl(signed, left), right)
        sums = builder.add(sums, builder.mul(one, other))
    return sums


ADD_PRODUCTS: Mapping[Flavour, AddProducts] = {
    "avx512_vnni": _by_vnni,
    "avx_vnni": _by_half_vnni,
    "avx2": _by_avx2,
    "portable": _portably,
}


def add_signed_products(builder: Builder, sums: Value, one: Value, other: Value) -> Value:
    """Add the four products of each lane's bytes with AVX2; both factors are signed and never -128.

    The signs of ``one`` are moved to ``other``, so that a sum of two products fits into 16 bits.
    """

    def magnitudes(one: Value) -> Value:
        found = _call(builder, "llvm.abs.v32i8", _HALF_BYTES, builder.bitcast(one, _HALF_BYTES), _BIT(0))
        return builder.bitcast(found, _HALF_SUMS)

    def turned(one: Value, other: Value) -> Value:
        given = [builder.bitcast(each, _HALF_BYTES) for each in (other, one)]
        return builder.bitcast(_call(builder, "llvm.x86.avx2.psign.b", _HALF_BYTES, *given), _HALF_SUMS)

    return _by_avx2(builder, sums, _in_halves(builder, magnitudes, one), _in_halves(builder, turned, one, other))


def by_rows(emit: Emit) -> Function:
    """Make ``(rows, weights, apart, inputs, stride, steps, sums)`` from code written for each number of rows.

    Args:
        emit: ``(builder, arguments, rows)`` writes the instructions for 1 to ``TILE_ROWS`` rows; the arguments are
            those of the made function without the first.
    """
    return by_number([_function_of(emit, rows) for rows in range(1, TILE_ROWS + 1)])


def by_number(functions: Sequence[Function]) -> Function:
    """Make ``(number, ...)``, which calls the function for 1, for 2 and so on with the other arguments."""
    *others, last = functions

    @part()
    def chosen(_number: int, *given: int) -> None:
        last(*given)

    for number in range(len(others), 0, -1):
        chosen = _either(number, others[number - 1], chosen)
    return chosen


def _either(number: int, this: Function, other: Function) -> Function:
    @part()
    def chosen(asked: int, *given: int) -> None:
        if asked == number:
            this(*given)
        else:
            other(asked, *given)

    return chosen


def _function_of(emit: Emit, rows: int) -> Function:
    def generate(context: BaseContext, builder: Builder, _signature: object, arguments: Values) -> Value:
        emit(builder, arguments, rows)
        return context.get_dummy_value()

    def tile(
        _context: object,
        _weights: types.Type,
        _apart: types.Type,
        _inputs: types.Type,
        _stride: types.Type,
        _steps: types.Type,
        _sums: types.Type,
    ) -> Typed:
        return types.void(*[types.int64] * 6), generate

    return intrinsic(tile)
