/* Sparse float32 layers: only the non-zero weights are stored and multiplied, in the order in which a dense
 * layer would.
 *
 * The input channels are walked in chunks, so that a chunk of a group of tiles stays in the first-level cache
 * while all rows use it. Between chunks the sums wait in memory. */
#include "lanes.h"
#include "linear_f32.h"

/* Adds one weight, whose input is channel `index`, to the sums of each tile. */
SPW_INLINE void add_weight(const float *const *x, uint32_t index, vf weight, const uint32_t tiles, vf *acc) {
#pragma GCC unroll 8
  for (uint32_t t = 0; t < tiles; t++) acc[t] = vf_fma(vf_load(x[t] + (size_t)index * SPW_LANES), weight, acc[t]);
}

/* Adds one row's weights to its sums: `count` of them, with their indices. */
SPW_INLINE void add_row(const float *const *x, const float *weights, const uint16_t *indices, uint32_t count,
                        const uint32_t tiles, bool first, float *sums) {
  vf acc[SPARSE_F32_TILES];
#pragma GCC unroll 8
  for (uint32_t t = 0; t < tiles; t++) acc[t] = first ? vf_set1(0.0f) : vf_load(sums + t * SPW_LANES);
  for (; count >= 4; count -= 4, weights += 4, indices += 4) {
    vf4 four = vf4_load(weights);
    uint64_t packed; /* one load for four indices: loads are what the loop has least of */
    memcpy(&packed, indices, sizeof packed);
    add_weight(x, index_of(packed, 0), vf4_at(four, 0), tiles, acc);
    add_weight(x, index_of(packed, 1), vf4_at(four, 1), tiles, acc);
    add_weight(x, index_of(packed, 2), vf4_at(four, 2), tiles, acc);
    add_weight(x, index_of(packed, 3), vf4_at(four, 3), tiles, acc);
  }
  for (; count > 0; count--, weights++, indices++) add_weight(x, *indices, vf_set1(*weights), tiles, acc);
#pragma GCC unroll 8
  for (uint32_t t = 0; t < tiles; t++) vf_store(sums + t * SPW_LANES, acc[t]);
}

/* At most SPW_SPARSE_ROWS rows, whose sums `sums` holds. */
SPW_INLINE void tile_group(const spw_linear_f32 *step, uint32_t tile, uint32_t row_begin, uint32_t row_end,
                           const uint32_t tiles, float *sums) {
  uint32_t rows = (step->n + SPW_ROW_BLOCK - 1) / SPW_ROW_BLOCK * SPW_ROW_BLOCK;
  const uint32_t *starts = step->starts;
  for (uint32_t channel = 0; channel < step->k; channel += step->chunk, starts += rows) {
    const float *x[SPARSE_F32_TILES];
#pragma GCC unroll 8
    for (uint32_t t = 0; t < tiles; t++) x[t] = row_at(&step->x, tile + t, channel);
    for (uint32_t row = row_begin; row < row_end; row++) {
      uint32_t begin = starts[row], end = starts[row + 1];
      add_row(x, step->weights + begin, step->indices + begin, end - begin, tiles, channel == 0,
              sums + (size_t)(row - row_begin) * tiles * SPW_LANES);
    }
  }
  linear_store_f32(step, tile, tiles, row_begin, row_end, sums);
}

void SPW_KERNEL(spmm_f32)(const spw_linear_f32 *step, uint32_t tile_begin, uint32_t tile_end, uint32_t row_begin,
                          uint32_t row_end, void *scratch) {
  row_end = at_most(row_end, step->n);
  for (uint32_t row = row_begin; row < row_end; row += SPW_SPARSE_ROWS)
    for (uint32_t tile = tile_begin; tile < tile_end; tile += SPARSE_F32_TILES)
      WITH_TILES(at_most(tile_end - tile, SPARSE_F32_TILES), SPARSE_F32_TILES,
                 tile_group(step, tile, row, at_most(row + SPW_SPARSE_ROWS, row_end), tiles, scratch))
}
