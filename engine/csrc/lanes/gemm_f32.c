/* Dense float32 layers: weights [N/8][K][8].
 *
 * The input channels are walked in chunks, and the rows in panels, so that a panel's part of the weight and a
 * chunk of a group of tiles stay in the second-level cache. Between chunks the sums wait in the output. */
#include "lanes.h"
#include "linear_f32.h"

enum { CHUNK = 1024, PANEL_ROWS = 128 };
_Static_assert((int)PANEL_ROWS % (int)SPW_ROW_BLOCK == 0, "a panel holds whole blocks of rows");

typedef struct chunk {
  uint32_t begin, end; /* input channels */
} chunk;

SPW_INLINE void block(const spw_linear_f32 *step, chunk c, uint32_t tile, uint32_t row, const uint32_t tiles) {
  const float *x = row_at(&step->x, tile, c.begin);
  const float *w = step->weights + (size_t)(row / SPW_ROW_BLOCK) * SPW_ROW_BLOCK * step->k +
                   (size_t)c.begin * SPW_ROW_BLOCK + row % SPW_ROW_BLOCK;
  uint32_t row_end = at_most(row + F32_ROWS, step->n);
  float sums[F32_ROWS * F32_TILES * SPW_LANES] = {0};
  vf acc[F32_ROWS * F32_TILES];
  if (c.begin > 0) linear_resume_f32(step, tile, tiles, row, row_end, sums);
#pragma GCC unroll 32
  for (uint32_t i = 0; i < F32_ROWS * tiles; i++) acc[i] = vf_load(sums + i * SPW_LANES);
  product_f32(x, step->x.stride / sizeof(float), w, SPW_ROW_BLOCK, 1, c.end - c.begin, F32_ROWS, tiles, acc);
#pragma GCC unroll 32
  for (uint32_t i = 0; i < F32_ROWS * tiles; i++) vf_store(sums + i * SPW_LANES, acc[i]);
  if (c.end < step->k) {
    linear_pause_f32(step, tile, tiles, row, row_end, sums);
  } else {
    linear_store_f32(step, tile, tiles, row, row_end, sums);
  }
}

static void panel(const spw_linear_f32 *step, chunk c, uint32_t tile_begin, uint32_t tile_end, uint32_t row_begin,
                  uint32_t row_end) {
  for (uint32_t tile = tile_begin; tile < tile_end; tile += F32_TILES)
    for (uint32_t row = row_begin; row < row_end; row += F32_ROWS)
      WITH_TILES(at_most(tile_end - tile, F32_TILES), F32_TILES, block(step, c, tile, row, tiles))
}

void SPW_KERNEL(gemm_f32)(const spw_linear_f32 *step, uint32_t tile_begin, uint32_t tile_end,
                          uint32_t row_begin, uint32_t row_end) {
  row_end = at_most(row_end, step->n);
  for (uint32_t k = 0; k < step->k; k += CHUNK)
    for (uint32_t row = row_begin; row < row_end; row += PANEL_ROWS)
      panel(step, (chunk){k, at_most(k + CHUNK, step->k)}, tile_begin, tile_end, row,
            at_most(row + PANEL_ROWS, row_end));
}
