/* Dense float32 layers: weights [N/8][K][8]. */
#include "lanes.h"
#include "product.h"

SPW_INLINE void block(const spw_linear_f32 *step, uint32_t tile, uint32_t row, const uint32_t tiles) {
  const float *x = (const float *)(step->x.base + tile * step->x.stride);
  const float *w = step->weights + (size_t)(row / SPW_ROW_BLOCK) * SPW_ROW_BLOCK * step->k + row % SPW_ROW_BLOCK;
  vf acc[F32_ROWS * F32_TILES];
#pragma GCC unroll 32
  for (uint32_t i = 0; i < F32_ROWS * tiles; i++) acc[i] = vf_set1(0.0f);
  product_f32(x, step->x.stride / sizeof(float), w, SPW_ROW_BLOCK, 1, step->k, F32_ROWS, tiles, acc);
#pragma GCC unroll 8
  for (uint32_t r = 0; r < F32_ROWS; r++) {
    if (row + r >= step->n) return;
#pragma GCC unroll 8
    for (uint32_t t = 0; t < tiles; t++) {
      vf value = vf_add(acc[r * tiles + t], vf_set1(step->bias[row + r]));
      float *y = (float *)(step->y.base + (tile + t) * step->y.stride) + (row + r) * SPW_LANES;
      vf_store(y, vf_activation(value, step->activation));
    }
  }
}

void SPW_KERNEL(gemm_f32)(const spw_linear_f32 *step, uint32_t tile_begin, uint32_t tile_end,
                          uint32_t row_begin, uint32_t row_end) {
  for (uint32_t tile = tile_begin; tile < tile_end; tile += F32_TILES)
    for (uint32_t row = row_begin; row < row_end; row += F32_ROWS)
      WITH_TILES(at_most(tile_end - tile, F32_TILES), F32_TILES, block(step, tile, row, tiles))
}
