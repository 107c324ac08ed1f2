/* Sparse uint8 x int8 layers: only the non-zero 1x4 blocks of the weight are stored and multiplied.
 *
 * The input channels are walked in chunks, so that the chunk of a group of tiles stays in the first-level cache
 * while a block of rows uses it. Between chunks the sums wait in `scratch`. */
#include "lanes.h"
#include "linear_store.h"

/* Adds one block, whose input is group `index`, to the sums of each tile. */
SPW_INLINE void add_block(const uint8_t *const *x, uint32_t index, vw weight, const uint32_t tiles, vacc *acc) {
#pragma GCC unroll 8
  for (uint32_t t = 0; t < tiles; t++) acc[t] = vacc_dot(acc[t], vx_load(x[t] + (size_t)index * 64), weight);
}

/* Adds one row's blocks to its sums: `count` of them at `weights` and `indices`. */
SPW_INLINE void add_row(const uint8_t *const *x, const int8_t *weights, const uint16_t *indices, uint32_t count,
                        const uint32_t tiles, bool first, uint8_t *sums) {
  vacc acc[SPARSE_TILES];
#pragma GCC unroll 8
  for (uint32_t t = 0; t < tiles; t++) acc[t] = first ? vacc_zero() : vacc_load(sums + t * 64);
  for (; count >= 4; count -= 4, weights += 16, indices += 4) {
    vw4 four = vw4_load(weights);
    uint64_t packed; /* one load for four indices: loads are what the loop has least of */
    memcpy(&packed, indices, sizeof packed);
    add_block(x, index_of(packed, 0), vw4_at(four, 0), tiles, acc);
    add_block(x, index_of(packed, 1), vw4_at(four, 1), tiles, acc);
    add_block(x, index_of(packed, 2), vw4_at(four, 2), tiles, acc);
    add_block(x, index_of(packed, 3), vw4_at(four, 3), tiles, acc);
  }
  for (; count > 0; count--, weights += 4, indices++) add_block(x, *indices, vw_load(weights), tiles, acc);
#pragma GCC unroll 8
  for (uint32_t t = 0; t < tiles; t++) vi_store(sums + t * 64, vacc_sum(acc[t]));
}

typedef struct rows {
  const spw_linear_u8 *step;
  const uint32_t *starts; /* of the chunk */
  uint32_t begin, end;
} rows;

SPW_INLINE void add_chunk(const rows *r, const uint8_t *const *x, const uint32_t tiles, bool first, uint8_t *sums) {
  const spw_linear_u8 *step = r->step;
  for (uint32_t row = r->begin; row < r->end; row++, sums += tiles * 64) {
    uint32_t begin = r->starts[row], end = r->starts[row + 1];
    add_row(x, step->weights + (size_t)begin * 4, step->indices + begin, end - begin, tiles, first, sums);
  }
}

SPW_INLINE void tile_group(const spw_linear_u8 *step, uint32_t tile, uint32_t row_begin, uint32_t row_end,
                           const uint32_t tiles, uint8_t *sums) {
  uint32_t padded = (step->n + SPW_ROW_BLOCK - 1) / SPW_ROW_BLOCK * SPW_ROW_BLOCK;
  uint32_t groups = (step->k + 3) / 4, chunk_groups = step->chunk / 4;
  rows r = {step, step->starts, row_begin, row_end};
  for (uint32_t group = 0; group < groups; group += chunk_groups, r.starts += padded) {
    const uint8_t *x[SPARSE_TILES];
#pragma GCC unroll 8
    for (uint32_t t = 0; t < tiles; t++) x[t] = step->x.base + (tile + t) * step->x.stride + (size_t)group * 64;
    add_chunk(&r, x, tiles, group == 0, sums);
  }
  for (uint32_t row = row_begin; row < row_end; row += 4, sums += 4 * tiles * 64)
    linear_store4(step, tile, tiles, row, sums);
}

void SPW_KERNEL(spmm_s8)(const spw_linear_u8 *step, uint32_t tile_begin, uint32_t tile_end, uint32_t row_begin,
                         uint32_t row_end, void *scratch) {
  for (uint32_t row = row_begin; row < row_end; row += SPW_SPARSE_ROWS)
    for (uint32_t tile = tile_begin; tile < tile_end; tile += SPARSE_TILES)
      WITH_TILES(at_most(tile_end - tile, SPARSE_TILES), SPARSE_TILES,
                 tile_group(step, tile, row, at_most(row_end, row + SPW_SPARSE_ROWS), tiles, scratch))
}
