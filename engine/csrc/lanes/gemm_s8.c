/* Dense uint8 x int8 layers: weights [N/8][K/4][8][4]. */
#include "lanes.h"
#include "linear_store.h"

SPW_INLINE void block(const spw_linear_u8 *step, uint32_t tile, uint32_t row, const uint32_t tiles) {
  uint32_t groups = (step->k + 3) / 4;
  vi sums[SPW_ROW_BLOCK * S8_TILES];
  product_s8(step->x.base + tile * step->x.stride, step->x.stride, step->weights + (size_t)row * groups * 4,
             groups, tiles, sums);
  linear_store(step, tile, tiles, row, row + SPW_ROW_BLOCK, (const uint8_t *)sums);
}

void SPW_KERNEL(gemm_s8)(const spw_linear_u8 *step, uint32_t tile_begin, uint32_t tile_end, uint32_t row_begin,
                         uint32_t row_end) {
  for (uint32_t tile = tile_begin; tile < tile_end; tile += S8_TILES)
    for (uint32_t row = row_begin; row < row_end; row += SPW_ROW_BLOCK)
      WITH_TILES(at_most(tile_end - tile, S8_TILES), S8_TILES, block(step, tile, row, tiles))
}
