"""int4 weights in tiles: their layout, and how a tile's sums are computed.

The weights of an output share a scale for every 64 inputs. A row is rounded to int8, as for int8 weights. Sums within a
group are integers and exact; groups are added in a fixed order, in float32. Each weight is stored with 8 added, which
makes it unsigned, since the CPU's instructions need one unsigned factor. The effect of this offset on a sum is computed
from the row and subtracted.
"""

import torch
from llvmlite import ir
from torch import Tensor

from serve_app.model.backends.cpu.instructions import (
    ADD_PRODUCTS,
    LANES,
    LONG,
    REALS,
    SUMS,
    TILE,
    Flavour,
    at,
    broadcast,
    by_rows,
    fetch_ahead,
    multiply_add,
    splat,
)
from serve_app.model.backends.cpu.llvm import Builder, Value, Values
from serve_app.model.backends.cpu.parts import Function
from serve_app.model.backends.cpu.strands import STRANDS

GROUP = 64
"""Inputs that share a scale."""

GROUP_WORDS = GROUP // 4 + 1
"""Words of four bytes that a row has per group: its codes, and their sum."""

_PAIRS = GROUP // 8
_PAIR_BYTES = 4 * TILE
_SCALE_BYTES = 2 * TILE
_GROUP_BYTES = _SCALE_BYTES + _PAIRS * _PAIR_BYTES
_MOST, _OFFSET = 7, 8


def pack(weight: Tensor) -> Tensor:
    """Round a weight to int4 and lay it out in tiles.

    Args:
        weight: [N, K].

    Returns:
        [tiles, groups, (2 + 32) * TILE] uint8. Each group has the outputs' scales in bfloat16, then for every eight
        inputs the four bytes of each output, with the first four inputs in the lower halves.
    """
    rows, columns = weight.shape
    tiles, groups = -(-rows // TILE), -(-columns // GROUP)
    filled = torch.zeros(tiles * TILE, groups * GROUP)
    filled[:rows, :columns] = weight
    grouped = filled.view(tiles, TILE, groups, GROUP)
    scales = (grouped.abs().amax(dim=3) / _MOST).clamp(min=1e-8).bfloat16()  # [tiles, TILE, groups]
    codes = (grouped / scales.float()[..., None]).round().clamp(-_MOST, _MOST).add(_OFFSET).to(torch.uint8)
    halves = codes.view(tiles, TILE, groups, _PAIRS, 2, 4)
    bytes_of = (halves[..., 0, :] | (halves[..., 1, :] << 4)).permute(0, 2, 3, 1, 4).reshape(tiles, groups, -1)
    return torch.cat([scales.transpose(1, 2).contiguous().view(torch.uint8), bytes_of], dim=2).contiguous()


def _emit_tile(builder: Builder, arguments: Values, rows: int, flavour: Flavour) -> None:
    """Write the loop over groups, and inside it the loop over eight inputs at a time."""
    weights, apart, inputs, stride, groups, sums = arguments
    add_products, vectors = ADD_PRODUCTS[flavour], range(TILE // LANES)
    places = [at(builder, REALS, sums, LONG(64 * place)) for place in range(rows * len(vectors))]
    for place in places:
        builder.store(ir.Constant(REALS, [0.0] * LANES), place, align=4)
    before = builder.block
    group_loop, loop = builder.append_basic_block("group"), builder.append_basic_block("pair")
    group_end, after = builder.append_basic_block("group_end"), builder.append_basic_block("end")
    builder.branch(group_loop)

    builder.position_at_end(group_loop)
    group = builder.phi(LONG)
    strand = builder.mul(apart, builder.urem(group, LONG(STRANDS)))
    place = builder.mul(builder.udiv(group, LONG(STRANDS)), LONG(_GROUP_BYTES))
    first = builder.add(weights, builder.add(strand, place))
    given = builder.add(inputs, builder.mul(group, LONG(4 * GROUP_WORDS)))
    begins = [builder.add(given, builder.mul(stride, LONG(row))) for row in range(rows)]
    builder.branch(loop)

    builder.position_at_end(loop)
    pair = builder.phi(LONG)
    running = [builder.phi(SUMS) for _ in places]
    codes = builder.add(first, builder.add(builder.mul(pair, LONG(_PAIR_BYTES)), LONG(_SCALE_BYTES)))
    fetch_ahead(builder, codes, _PAIR_BYTES)
    words = [builder.add(begin, builder.mul(pair, LONG(8))) for begin in begins]
    read = [[broadcast(builder, SUMS, builder.add(word, LONG(4 * half))) for half in range(2)] for word in words]
    totals: list[Value] = list(running)
    for vector in vectors:
        packed = builder.load(at(builder, SUMS, codes, LONG(64 * vector)), align=64)
        low = builder.and_(packed, splat(0x0F0F0F0F))
        high = builder.and_(builder.lshr(packed, splat(4)), splat(0x0F0F0F0F))
        for row in range(rows):
            place = row * len(vectors) + vector
            for half, code in enumerate((low, high)):
                totals[place] = add_products(builder, totals[place], code, read[row][half])
    following = builder.add(pair, LONG(1))
    builder.cbranch(builder.icmp_signed("<", following, LONG(_PAIRS)), loop, group_end)

    builder.position_at_end(group_end)
    for row, begin in enumerate(begins):
        offset = builder.mul(broadcast(builder, SUMS, builder.add(begin, LONG(GROUP))), splat(_OFFSET))
        for vector in vectors:
            number = row * len(vectors) + vector
            halves = ir.VectorType(ir.IntType(16), LANES)
            scale = builder.zext(builder.load(at(builder, halves, first, LONG(32 * vector)), align=32), SUMS)
            scale = builder.bitcast(builder.shl(scale, splat(16)), REALS)
            total = builder.sitofp(builder.sub(totals[number], offset), REALS)
            before_group = builder.load(places[number], align=4)
            builder.store(multiply_add(builder, total, scale, before_group), places[number], align=4)
    next_group = builder.add(group, LONG(1))
    builder.cbranch(builder.icmp_signed("<", next_group, groups), group_loop, after)

    for phi, block, entering, again, going_on in (
        (group, before, LONG(0), group_end, next_group),
        (pair, group_loop, LONG(0), loop, following),
        *((phi, group_loop, splat(0), loop, total) for phi, total in zip(running, totals, strict=True)),
    ):
        phi.add_incoming(entering, block)
        phi.add_incoming(going_on, again)
    builder.position_at_end(after)


def make_int4_tiles(flavour: Flavour) -> Function:
    """Make ``(rows, weights, apart, inputs, stride, groups, sums)``: a tile's sums for each of 1 to ``TILE_ROWS`` rows.

    Arguments of the made function: rows; address of the tile's weights in the first strand, groups as laid out by
    :func:`pack`, 64-byte aligned; bytes from strand to strand; address of the rows' inputs [groups, GROUP_WORDS] int32;
    bytes from row to row; groups; address of the sums [rows, TILE] float32.
    """
    return by_rows(lambda builder, arguments, rows: _emit_tile(builder, arguments, rows, flavour))
