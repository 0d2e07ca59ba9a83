"""Products by constant weights, laid out so that a CPU reads them once from front to end, and sums every row alike.

A tile is some outputs. Its sums are made in one order whatever the rows beside it, so that no row changes another's. It
knows rows and weights, never layers. There are two forms of weights:

- bfloat16, multiplied with float32 inputs and summed in float32;
- int8. Inputs are rounded to int8 too, each row by its own largest magnitude, and sums of integers are exact. A CPU's
  instructions for such sums take one factor without a sign. For VNNI a row is kept with 128 added to each of its
  codes; what that adds to a sum is known from the weights and taken off again. For AVX2, whose sums of two products
  have 16 bits, the signs of the weights are moved to the row, which fits since no code is -128.

Source: Intel's instruction set reference, VPDPBUSD, VPSIGNB and VPMADDUBSW.
"""

from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np
import torch
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from serve_app.model.compiled.parts import ROUNDER, Function, Row, config, exp, float32_at, int32_at, part, uint8_at
from serve_app.model.quiet import Upstream

_LANES = 16
"""Outputs whose sums lie side by side: one register, or two of a CPU whose registers are half as wide."""

_STEP_BYTES = 4
"""Bytes of a row that are multiplied at a time with a tile's weights."""

_INT8_STEP = 4
"""Inputs in them where they are int8."""

_AHEAD = 4096
"""Bytes between what is multiplied and what the cache is told to fetch: a fifth less time for four rows (measured)."""

_MOST = 127.0

Flavour = Literal["avx512_vnni", "avx_vnni", "avx2", "portable"]
"""How bytes are multiplied and summed."""

TileForm = Literal["bfloat16", "int8"]
_BFLOAT16, _INT8 = 0, 1


def _features() -> Upstream:
    """What this CPU has that numba compiles for, by LLVM's names."""
    if config.CPU_NAME or config.CPU_FEATURES or not config.ENABLE_AVX:
        return {}  # numba was told to compile for another
    try:
        return binding.get_host_cpu_features()
    except RuntimeError:  # LLVM knows none of this host
        return {}


def this_cpus() -> Flavour:
    """The instructions that this CPU has, and numba compiles for."""
    features = _features()
    if features.get("avx512vnni") and features.get("avx512vl"):
        return "avx512_vnni"
    if features.get("avxvnni"):
        return "avx_vnni"
    return "avx2" if features.get("avx2") else "portable"


_OFFSET = 0 if this_cpus() == "avx2" else 128
"""What is added to each of a row's codes."""

WIDE = bool(_features().get("avx512f"))
"""Whether there are 32 registers of 16 lanes, and not 16 of 8."""

TILE, TILE_ROWS = (64, 4) if WIDE else (32, 3)
"""Outputs summed together, and rows that share one reading of a tile's weights: 16 sums in AVX-512's 32 registers
of 16 lanes, 12 sums in the 16 registers of 8 lanes that others have."""


@dataclass(frozen=True, slots=True)
class TiledWeight:
    """A weight [N, K] in tiles; zeros fill what N lacks of whole tiles.

    Attributes:
        form: of its entries.
        packed: the tiles, one after the other; bfloat16 [tiles, K, TILE / 32, 16, 2]: of each input the outputs 0 and
            16, 1 and 17 and so on up to 15 and 31, then 32 and 48 and so on; int8 [tiles, K / 4, TILE, 4]: of four
            inputs each output.
        scales: int8's: [tiles * TILE] float32, what a sum is multiplied with besides its row's largest magnitude.
        added: int8's: [tiles * TILE] int32, what the offset of the rows adds to a sum.
    """

    form: TileForm
    packed: Tensor
    scales: Tensor
    added: Tensor

    @classmethod
    def of(cls, weight: Tensor, form: TileForm) -> "TiledWeight":
        """Lay out a copy of ``weight``; for int8 quantised, each row to its own largest magnitude."""
        rows, columns = weight.shape
        filled_rows = -(-rows // TILE) * TILE
        if form == "bfloat16":
            filled = torch.zeros(filled_rows, columns, dtype=torch.bfloat16)
            filled[:rows] = weight
            packed = filled.view(-1, TILE // (2 * _LANES), 2, _LANES, columns).permute(0, 4, 1, 3, 2).contiguous()
            return cls(form, packed, torch.empty(0), torch.empty(0, dtype=torch.int32))
        scale = weight.float().abs().amax(dim=1).clamp(min=1e-8) / _MOST  # [N]
        codes = torch.zeros(filled_rows, -(-columns // _INT8_STEP) * _INT8_STEP, dtype=torch.int8)
        codes[:rows, :columns] = (weight.float() / scale[:, None]).round().clamp(-_MOST, _MOST).to(torch.int8)
        scales = torch.zeros(filled_rows)
        scales[:rows] = scale / _MOST
        packed = codes.view(-1, TILE, codes.shape[1] // _INT8_STEP, _INT8_STEP).transpose(1, 2).contiguous()
        return cls(form, packed, scales, _OFFSET * codes.sum(dim=1, dtype=torch.int32))

    @property
    def outputs(self) -> int:
        """Outputs that a product writes: N, and what filled the last tile."""
        return len(self.packed) * TILE

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of inputs as :func:`take` leaves it."""
        return _STEP_BYTES * self.packed.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes that a product reads."""
        return self.packed.nbytes + self.scales.nbytes + self.added.nbytes

    def fields(self) -> tuple[int, ...]:
        """As :data:`PRODUCT` has them."""
        addresses = (each.data_ptr() for each in (self.packed, self.scales, self.added))
        tiles, steps = self.packed.shape[:2]
        return *addresses, tiles, steps, self.packed[0].nbytes, _INT8 if self.form == "int8" else _BFLOAT16


PRODUCT = np.dtype(
    [(field, np.int64) for field in ("packed", "scales", "added", "tiles", "steps", "tile_bytes", "form")]
)
"""A :class:`TiledWeight` for compiled code; a step is four bytes of a row: one input, or int8's four."""

PRODUCTS: Upstream = numba.from_dtype(PRODUCT)
"""The same, as compiled code names it."""

_BIT, _BYTE, _WORD, _LONG = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64)
_SUMS = ir.VectorType(_WORD, 16)
_HALF_SUMS = ir.VectorType(_WORD, 8)
_HALF_PAIRS = ir.VectorType(ir.IntType(16), 16)
_HALF_BYTES = ir.VectorType(_BYTE, 32)
_REALS = ir.VectorType(ir.FloatType(), 16)


def _by_vnni(builder: Upstream, sums: Upstream, inputs: Upstream, weights: Upstream) -> Upstream:
    return builder.call(_vnni(builder, _SUMS, 512), [sums, inputs, weights])


def _by_half_vnni(builder: Upstream, sums: Upstream, inputs: Upstream, weights: Upstream) -> Upstream:
    def sum_half(*half: Upstream) -> Upstream:
        return builder.call(_vnni(builder, _HALF_SUMS, 256), half)

    return _in_halves(builder, sum_half, sums, inputs, weights)


def _by_avx2(builder: Upstream, sums: Upstream, inputs: Upstream, weights: Upstream) -> Upstream:
    def call(name: str, result: Upstream, *given: Upstream) -> Upstream:
        function = ir.FunctionType(result, [each.type for each in given])
        return builder.call(cgutils.get_or_insert_function(builder.module, function, f"llvm.x86.{name}"), given)

    def sum_half(sums: Upstream, inputs: Upstream, weights: Upstream) -> Upstream:
        signed, given = builder.bitcast(weights, _HALF_BYTES), builder.bitcast(inputs, _HALF_BYTES)
        magnitudes = builder.call(
            cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(_HALF_BYTES, [_HALF_BYTES, _BIT]), "llvm.abs.v32i8"
            ),
            [signed, _BIT(0)],
        )
        pairs = call("avx2.pmadd.ub.sw", _HALF_PAIRS, magnitudes, call("avx2.psign.b", _HALF_BYTES, given, signed))
        fours = call("avx2.pmadd.wd", _HALF_SUMS, pairs, ir.Constant(_HALF_PAIRS, [1] * 16))
        return builder.add(sums, fours)

    return _in_halves(builder, sum_half, sums, inputs, weights)


def _in_halves(builder: Upstream, of_half: Function, *vectors: Upstream) -> Upstream:
    """What ``of_half`` makes of the lower and of the upper eight lanes of some vectors of sixteen."""
    halves = [of_half(*[_shuffle(builder, each, range(first, first + 8)) for each in vectors]) for first in (0, 8)]
    return builder.shuffle_vector(*halves, ir.Constant(_SUMS, list(range(16))))


def _vnni(builder: Upstream, sums: Upstream, bits: int) -> Upstream:
    function = ir.FunctionType(sums, [sums, sums, sums])
    return cgutils.get_or_insert_function(builder.module, function, f"llvm.x86.avx512.vpdpbusd.{bits}")


def _portably(builder: Upstream, sums: Upstream, inputs: Upstream, weights: Upstream) -> Upstream:
    """Of each word of four bytes in turn: the weight with its sign, the input without, multiplied and added."""
    for byte in range(_INT8_STEP):
        left, right = (ir.Constant(_SUMS, [shift] * 16) for shift in (24 - 8 * byte, 24))
        weight = builder.ashr(builder.shl(weights, left), right)
        sums = builder.add(sums, builder.mul(weight, builder.lshr(builder.shl(inputs, left), right)))
    return sums


def _fetch(builder: Upstream, address: Upstream) -> None:
    """Have the cache line at an address fetched for reading, to stay near."""
    function = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _WORD, _WORD, _WORD])
    fetch = cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0")
    builder.call(fetch, [address, _WORD(0), _WORD(3), _WORD(1)])


def _shuffle(builder: Upstream, vector: Upstream, lanes: range) -> Upstream:
    indices = ir.Constant(ir.VectorType(_WORD, len(lanes)), list(lanes))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), indices)


def _by_float32(builder: Upstream, sums: Upstream, inputs: Upstream, weights: Upstream) -> Upstream:
    function = ir.FunctionType(_REALS, [_REALS, _REALS, _REALS])
    fma = cgutils.get_or_insert_function(builder.module, function, "llvm.fma.v16f32")
    return builder.call(fma, [inputs, weights, sums])


_SUMMED_BY = {"bfloat16": _by_float32, "avx512_vnni": _by_vnni, "avx_vnni": _by_half_vnni, "avx2": _by_avx2}
_SUMMED_BY["portable"] = _portably


def _at(builder: Upstream, kind: Upstream, *addends: Upstream) -> Upstream:
    """The sum of some numbers as the address of a ``kind``."""
    total = addends[0]
    for addend in addends[1:]:
        total = builder.add(total, addend)
    return builder.inttoptr(total, kind.as_pointer())


def _read_weights(builder: Upstream, address: Upstream, how: str) -> list[Upstream]:
    """One step's weights: vectors of sixteen outputs each, as they are multiplied."""
    if how != "bfloat16":
        vectors = range(TILE // _LANES)
        return [builder.load(_at(builder, _SUMS, address, _LONG(64 * each)), align=64) for each in vectors]
    registers: list[Upstream] = []
    for pair in range(TILE // (2 * _LANES)):
        pairs = builder.load(_at(builder, _SUMS, address, _LONG(64 * pair)), align=64)
        low = builder.shl(pairs, ir.Constant(_SUMS, [16] * 16))
        high = builder.and_(pairs, ir.Constant(_SUMS, [0xFFFF0000] * 16))
        registers += [builder.bitcast(low, _REALS), builder.bitcast(high, _REALS)]
    return registers


def _emit_tile(builder: Upstream, arguments: Upstream, rows: int, how: str) -> None:
    """Write the loop over the steps: of each the weights of all outputs, and of each row four bytes."""
    weights, inputs, stride, steps, sums = arguments
    vector, bytes_a_step = (_REALS, 2 * TILE) if how == "bfloat16" else (_SUMS, _INT8_STEP * TILE)
    zeros = ir.Constant(vector, [0] * 16)
    before = builder.block
    loop, after = builder.append_basic_block("tile"), builder.append_basic_block("tile_end")
    builder.branch(loop)
    builder.position_at_end(loop)
    step = builder.phi(_LONG)
    running = [[builder.phi(vector) for _ in range(TILE // _LANES)] for _ in range(rows)]
    address = builder.add(weights, builder.mul(step, _LONG(bytes_a_step)))
    read = _read_weights(builder, address, how)
    if rows > 1:  # one row waits for memory alone, which then is read no faster
        for line in range(bytes_a_step // 64):
            _fetch(builder, _at(builder, _BYTE, address, _LONG(64 * line + _AHEAD)))
    following = builder.add(step, _LONG(1))
    step.add_incoming(_LONG(0), before)
    step.add_incoming(following, loop)
    totals: list[Upstream] = []
    for row, sums_of_row in enumerate(running):
        offset = builder.add(builder.mul(stride, _LONG(row)), builder.mul(step, _LONG(_STEP_BYTES)))
        given = builder.load(_at(builder, vector.element, inputs, offset), align=4)
        given = builder.insert_element(ir.Constant(vector, ir.Undefined), given, _WORD(0))
        given = builder.shuffle_vector(given, given, ir.Constant(_SUMS, [0] * 16))
        for weights_read, before_step in zip(read, sums_of_row, strict=True):
            totals.append(_SUMMED_BY[how](builder, before_step, given, weights_read))
            before_step.add_incoming(zeros, before)
            before_step.add_incoming(totals[-1], loop)
    builder.cbranch(builder.icmp_signed("<", following, steps), loop, after)
    builder.position_at_end(after)
    for place, total in enumerate(totals):
        builder.store(total, _at(builder, vector, sums, _LONG(64 * place)), align=4)


def _tile_of(rows: int, how: str) -> Function:
    """Make ``(weights, inputs, stride, steps, sums)``: the sums of a tile for each of ``rows`` rows.

    Args of the made function: addresses of the tile's weights, 64-byte aligned, of the rows' inputs and of the sums
    [rows, TILE] int32 or float32; bytes from row to row; steps to a sum.
    """

    def generate(context: Upstream, builder: Upstream, _signature: Upstream, arguments: Upstream) -> Upstream:
        _emit_tile(builder, arguments, rows, how)
        return context.get_dummy_value()

    def tile(
        _context: Upstream, _weights: Upstream, _inputs: Upstream, _stride: Upstream, _steps: Upstream, _sums: Upstream
    ) -> Upstream:
        return types.void(types.int64, types.int64, types.int64, types.int64, types.int64), generate

    made: Upstream = intrinsic(tile)
    return made


def make_tiles(how: Flavour | Literal["bfloat16"]) -> Function:
    """Make ``(rows, weights, inputs, stride, steps, sums)`` for 1 to ``TILE_ROWS`` rows; see :func:`_tile_of`."""
    one, two, three, four = [_tile_of(min(rows, TILE_ROWS), how) for rows in range(1, 5)]

    @part()
    def tiles(rows: int, weights: int, inputs: int, stride: int, steps: int, sums: int) -> None:
        if rows == 1:
            one(weights, inputs, stride, steps, sums)
        elif rows == 2:
            two(weights, inputs, stride, steps, sums)
        elif rows == 3:
            three(weights, inputs, stride, steps, sums)
        else:
            four(weights, inputs, stride, steps, sums)

    return tiles


_int8_tiles = make_tiles(this_cpus())
_bfloat16_tiles = make_tiles("bfloat16")

STORE, ADD, GATE = 0, 1, 2
"""What becomes of a product: it is written, added to what is there, or, where a tile holds gates and then the values
that they gate, silu(gate) * value is written."""


@part()
def take(row: Row, product: Upstream, taken: int) -> np.float32:
    """Put a row of inputs into the form in which a product reads it.

    Args:
        row: [K] float32; may be overwritten.
        product: one of :data:`PRODUCT`.
        taken: address of ``row_bytes``.

    Returns:
        What its sums are to be multiplied with.
    """
    if product.form == _INT8:
        return quantise(row, taken)
    copied = float32_at(taken, row.size)
    for i in range(row.size):
        copied[i] = row[i]
    return np.float32(1)


@part()
def quantise(row: Row, codes: int) -> np.float32:
    """Round a row to int8, so that its largest magnitude becomes 127; 128 is added to each.

    Args:
        row: [K] float32; overwritten.
        codes: address of [K] uint8.

    Returns:
        The largest magnitude, 1e-8 at the least.
    """
    magnitudes, written = row.view(np.uint32), uint8_at(codes, row.size)
    bits = np.uint32(0)  # read as whole numbers, magnitudes keep their order, and are vectorised
    for i in range(row.size):
        bits = max(bits, magnitudes[i] & np.uint32(0x7FFFFFFF))
    most = max(np.uint32(bits).view(np.float32), np.float32(1e-8))
    scale = np.float32(1) / most * np.float32(_MOST)
    for i in range(row.size):
        row[i] = row[i] * scale + ROUNDER
        written[i] = np.uint8(magnitudes[i] + np.uint32(_OFFSET))
    return most


@part("contract")
def multiply(
    product: Upstream, me: int, team: int, taken: int, factors: Row, sums: int, out: int, width: int, kind: int
) -> None:
    """One thread's share of the product of some rows by a weight.

    Args:
        product: one of :data:`PRODUCT`.
        me: the thread's number.
        team: threads.
        taken: address of the rows as :func:`take` left them.
        factors: [rows], as it returned them.
        sums: address of room for [TILE_ROWS, TILE] float32 or int32, this thread's.
        out: address of [rows, width] float32.
        width: from row to row of ``out``.
        kind: what becomes of it.
    """
    rows, stride = factors.size, _STEP_BYTES * product.steps
    parts = -(-rows // TILE_ROWS)
    values = np.empty(TILE, np.float32)
    for tile in range(product.tiles * me // team, product.tiles * (me + 1) // team):
        weights = product.packed + product.tile_bytes * tile
        for each in range(parts):
            first, end = rows * each // parts, rows * (each + 1) // parts
            if product.form == _INT8:
                _int8_tiles(end - first, weights, taken + first * stride, stride, product.steps, sums)
            else:
                _bfloat16_tiles(end - first, weights, taken + first * stride, stride, product.steps, sums)
            for row in range(first, end):
                place = sums + 4 * TILE * (row - first)
                if product.form == _INT8:
                    _scale(product, tile, place, factors[row], values)
                    _settle(values, out, row, width, tile, kind)
                else:
                    _settle(float32_at(place, TILE), out, row, width, tile, kind)


@part()
def _scale(product: Upstream, tile: int, sums: int, most: np.float32, values: Row) -> None:
    """Give sums of int8 products their scales."""
    scales = float32_at(product.scales + 4 * TILE * tile, TILE)
    added = int32_at(product.added + 4 * TILE * tile, TILE)
    found = int32_at(sums, TILE)
    for i in range(TILE):
        values[i] = np.float32(found[i] - added[i]) * scales[i] * most


@part("contract")
def _settle(values: Row, out: int, row: int, width: int, tile: int, kind: int) -> None:
    """Do with a tile's values what becomes of them."""
    if kind == GATE:
        gated = float32_at(out + 4 * (row * width + TILE // 2 * tile), TILE // 2)
        for i in range(TILE // 2):
            gated[i] = values[i] / (np.float32(1) + exp(-values[i])) * values[TILE // 2 + i]
        return
    written = float32_at(out + 4 * (row * width + TILE * tile), TILE)
    for i in range(TILE):
        written[i] = written[i] + values[i] if kind == ADD else values[i]


def pair_up(gate: Tensor, up: Tensor) -> Tensor:
    """Lay half a tile of rows of ``gate`` [N, K] before those of ``up`` that they gate, and so on; zeros fill N."""
    half = TILE // 2
    rows = -(-len(gate) // half) * half
    filled = [torch.nn.functional.pad(each, (0, 0, 0, rows - len(each))) for each in (gate, up)]
    return torch.cat([each.view(-1, half, each.shape[1]) for each in filled], dim=1).flatten(0, 1)
