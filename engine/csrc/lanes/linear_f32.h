/* What follows a float32 product: bias, activation, store. Include after lanes.h. */
#ifndef SPW_LINEAR_F32_H
#define SPW_LINEAR_F32_H

#include "product.h"

SPW_INLINE float *row_at(const spw_tiles *tiles, uint32_t tile, uint32_t row) {
  return (float *)(tiles->base + tile * tiles->stride) + (size_t)row * SPW_LANES;
}

/* Takes the sums that linear_pause_f32 left in the output: `sums` is [row_end - row_begin][tiles][16]. */
static inline void linear_resume_f32(const spw_linear_f32 *step, uint32_t tile, uint32_t tiles, uint32_t row_begin,
                                     uint32_t row_end, float *sums) {
  for (uint32_t row = row_begin; row < row_end; row++)
    for (uint32_t t = 0; t < tiles; t++, sums += SPW_LANES)
      vf_store(sums, vf_load(row_at(&step->y, tile + t, row)));
}

static inline void linear_pause_f32(const spw_linear_f32 *step, uint32_t tile, uint32_t tiles, uint32_t row_begin,
                                    uint32_t row_end, const float *sums) {
  for (uint32_t row = row_begin; row < row_end; row++)
    for (uint32_t t = 0; t < tiles; t++, sums += SPW_LANES)
      vf_store(row_at(&step->y, tile + t, row), vf_load(sums));
}

/* `sums` is as above. Kept out of line: the activations inlined at every place that
 * multiplies would bury the products. */
static __attribute__((noinline)) void linear_store_f32(const spw_linear_f32 *step, uint32_t tile, uint32_t tiles,
                                                       uint32_t row_begin, uint32_t row_end, const float *sums) {
  for (uint32_t row = row_begin; row < row_end; row++) {
    vf bias = vf_set1(step->bias[row]);
    for (uint32_t t = 0; t < tiles; t++, sums += SPW_LANES)
      vf_store(row_at(&step->y, tile + t, row), vf_activation(vf_add(vf_load(sums), bias), step->activation));
  }
}

#endif
