/* Sparse float32 layers: only the non-zero weights are stored and multiplied, in the order in which a dense
 * layer would.
 *
 * The input channels are walked in chunks, so that a chunk of a group of tiles stays in the first-level cache
 * while all rows use it. Between chunks the sums wait in memory. */
#include "lanes.h"
#include "linear_f32.h"

/* Adds the weights [begin, end) of one row to its sums. `x` is the chunk's first channel. */
SPW_INLINE void add_row(const spw_linear_f32 *step, uint32_t begin, uint32_t end, const float *x,
                        const uint32_t tiles, bool first, float *sums) {
  size_t stride = step->x.stride / sizeof(float);
  vf acc[SPARSE_F32_TILES];
#pragma GCC unroll 8
  for (uint32_t t = 0; t < tiles; t++) acc[t] = first ? vf_set1(0.0f) : vf_load(sums + t * SPW_LANES);
  for (uint32_t i = begin; i < end; i++) {
    const float *from = x + (size_t)step->indices[i] * SPW_LANES;
    vf weight = vf_set1(step->weights[i]);
#pragma GCC unroll 8
    for (uint32_t t = 0; t < tiles; t++) acc[t] = vf_fma(vf_load(from + t * stride), weight, acc[t]);
  }
#pragma GCC unroll 8
  for (uint32_t t = 0; t < tiles; t++) vf_store(sums + t * SPW_LANES, acc[t]);
}

/* At most SPW_SPARSE_ROWS rows, whose sums `sums` holds. */
SPW_INLINE void tile_group(const spw_linear_f32 *step, uint32_t tile, uint32_t row_begin, uint32_t row_end,
                           const uint32_t tiles, float *sums) {
  uint32_t rows = (step->n + SPW_ROW_BLOCK - 1) / SPW_ROW_BLOCK * SPW_ROW_BLOCK;
  const uint32_t *starts = step->starts;
  for (uint32_t channel = 0; channel < step->k; channel += step->chunk, starts += rows)
    for (uint32_t row = row_begin; row < row_end; row++)
      add_row(step, starts[row], starts[row + 1], row_at(&step->x, tile, channel), tiles, channel == 0,
              sums + (size_t)(row - row_begin) * tiles * SPW_LANES);
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
