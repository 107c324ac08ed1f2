/* Dense float32 layers: weights [N/8][K][8]. */
#include "lanes.h"
#include "linear_f32.h"

SPW_INLINE void block(const spw_linear_f32 *step, uint32_t tile, uint32_t row, const uint32_t tiles) {
  const float *x = row_at(&step->x, tile, 0);
  const float *w = step->weights + (size_t)(row / SPW_ROW_BLOCK) * SPW_ROW_BLOCK * step->k + row % SPW_ROW_BLOCK;
  vf acc[F32_ROWS * F32_TILES];
#pragma GCC unroll 32
  for (uint32_t i = 0; i < F32_ROWS * tiles; i++) acc[i] = vf_set1(0.0f);
  product_f32(x, step->x.stride / sizeof(float), w, SPW_ROW_BLOCK, 1, step->k, F32_ROWS, tiles, acc);
  float sums[F32_ROWS * F32_TILES * SPW_LANES];
#pragma GCC unroll 32
  for (uint32_t i = 0; i < F32_ROWS * tiles; i++) vf_store(sums + i * SPW_LANES, acc[i]);
  linear_store_f32(step, tile, tiles, row, at_most(row + F32_ROWS, step->n), sums);
}

void SPW_KERNEL(gemm_f32)(const spw_linear_f32 *step, uint32_t tile_begin, uint32_t tile_end,
                          uint32_t row_begin, uint32_t row_end) {
  row_end = at_most(row_end, step->n);
  for (uint32_t tile = tile_begin; tile < tile_end; tile += F32_TILES)
    for (uint32_t row = row_begin; row < row_end; row += F32_ROWS)
      WITH_TILES(at_most(tile_end - tile, F32_TILES), F32_TILES, block(step, tile, row, tiles))
}
