/* Sparse uint8 x int8 layers: only the non-zero 1x4 blocks of the weight are stored and multiplied.
 *
 * The input channels are walked in chunks, so that the chunk of a group of tiles, copied side by side as
 * [group of 4 channels][tile][16][4], stays in the first-level cache while all rows use it. Between chunks
 * the sums wait in memory. */
#include "lanes.h"
#include "linear_store.h"

SPW_INLINE void copy_panel(const spw_linear_u8 *step, uint32_t tile, uint32_t group, uint32_t groups,
                           const uint32_t tiles, uint8_t *panel) {
  for (uint32_t t = 0; t < tiles; t++) {
    const uint8_t *from = step->x.base + (tile + t) * step->x.stride + (size_t)group * 64;
    for (uint32_t g = 0; g < groups; g++) vi_store(panel + (g * tiles + t) * 64, vi_load(from + g * 64));
  }
}

/* Adds one row's blocks [begin, end) to its sums. */
SPW_INLINE void add_row(const spw_linear_u8 *step, uint32_t begin, uint32_t end, const uint8_t *panel,
                        const uint32_t tiles, bool first, uint8_t *sums) {
  vacc acc[SPARSE_TILES];
#pragma GCC unroll 8
  for (uint32_t t = 0; t < tiles; t++) acc[t] = first ? vacc_zero() : vacc_load(sums + t * 64);
  for (uint32_t b = begin; b < end; b++) {
    const uint8_t *x = panel + (size_t)step->indices[b] * (tiles * 64);
    vw weight = vw_load(step->weights + (size_t)b * 4);
#pragma GCC unroll 8
    for (uint32_t t = 0; t < tiles; t++) acc[t] = vacc_dot(acc[t], vx_load(x + t * 64), weight);
  }
#pragma GCC unroll 8
  for (uint32_t t = 0; t < tiles; t++) vi_store(sums + t * 64, vacc_sum(acc[t]));
}

SPW_INLINE void store_rows(const spw_linear_u8 *step, uint32_t tile, uint32_t row, const uint32_t tiles,
                           const uint8_t *sums) {
  for (uint32_t t = 0; t < tiles; t++) {
    vi four[4];
#pragma GCC unroll 4
    for (uint32_t r = 0; r < 4; r++) four[r] = vi_load(sums + (r * tiles + t) * 64);
    linear_store4(step, tile + t, row, four);
  }
}

SPW_INLINE void tile_group(const spw_linear_u8 *step, uint32_t tile, uint32_t row_begin, uint32_t row_end,
                           const uint32_t tiles, uint8_t *scratch) {
  uint32_t rows = (step->n + SPW_ROW_BLOCK - 1) / SPW_ROW_BLOCK * SPW_ROW_BLOCK;
  uint32_t groups = (step->k + 3) / 4, chunk_groups = step->chunk / 4;
  uint8_t *panel = scratch, *sums = scratch + (size_t)chunk_groups * tiles * 64;
  const uint32_t *starts = step->starts;
  for (uint32_t group = 0; group < groups; group += chunk_groups, starts += rows) {
    copy_panel(step, tile, group, at_most(chunk_groups, groups - group), tiles, panel);
    for (uint32_t row = row_begin; row < row_end; row++)
      add_row(step, starts[row], starts[row + 1], panel, tiles, group == 0,
              sums + (size_t)(row - row_begin) * tiles * 64);
  }
  for (uint32_t row = row_begin; row < row_end; row += 4)
    store_rows(step, tile, row, tiles, sums + (size_t)(row - row_begin) * tiles * 64);
}

void SPW_KERNEL(spmm_s8)(const spw_linear_u8 *step, uint32_t tile_begin, uint32_t tile_end, uint32_t row_begin,
                         uint32_t row_end, void *scratch) {
  for (uint32_t tile = tile_begin; tile < tile_end; tile += SPARSE_TILES)
    WITH_TILES(at_most(tile_end - tile, SPARSE_TILES), SPARSE_TILES,
               tile_group(step, tile, row_begin, row_end, tiles, scratch))
}
