/* What follows an integer product: scale, bias, activation, store. Include after lanes.h. */
#ifndef SPW_LINEAR_STORE_H
#define SPW_LINEAR_STORE_H

#include "product.h"

SPW_INLINE vf linear_value(const spw_linear_u8 *step, uint32_t row, vi sum) {
  vf value = vi_to_float(vi_sub(sum, vi_set1(step->correction[row])));
  return vf_fma(value, vf_set1(step->scale[row]), vf_set1(step->bias[row]));
}

SPW_INLINE void activate4(vf values[4], bool quantized, const spw_activation activation) {
  if (quantized && activation == SPW_GELU) {
    vf_gelu_short4(values);
    return;
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) values[i] = vf_activation(values[i], activation);
}

/* Row `row` + r of tile t has its sums at [r * tiles + t]. Of the rows, those below n exist in a float32 y. */
SPW_INLINE void store_values(const spw_linear_u8 *step, uint32_t tile, const uint32_t tiles, uint32_t row,
                             const uint8_t *sums, const spw_activation activation) {
  uint32_t present = step->quantized ? 4 : at_most(4, step->n - row);
  vf inverse = vf_set1(1.0f / step->out.scale);
  for (uint32_t t = 0; t < tiles; t++) {
    uint8_t *y = step->y.base + (tile + t) * step->y.stride;
    vf values[4];
#pragma GCC unroll 4
    for (uint32_t r = 0; r < 4; r++) values[r] = linear_value(step, row + r, vi_load(sums + (r * tiles + t) * 64));
    activate4(values, step->quantized, activation);
    if (step->quantized) {
#pragma GCC unroll 4
      for (uint32_t r = 0; r < 4; r++) values[r] = vf_mul(values[r], inverse);
      vf_store_u8(y + row * SPW_LANES, values, step->out.zero_point);
    } else {
      for (uint32_t r = 0; r < present; r++) vf_store((float *)y + (row + r) * SPW_LANES, values[r]);
    }
  }
}

/* Stores rows row..row+3 of tiles tile..tile+tiles-1 from their int32 sums [4][tiles][16].
 * Kept out of line: four activations inlined at every place that multiplies would bury the products. */
static __attribute__((noinline)) void linear_store4(const spw_linear_u8 *step, uint32_t tile, uint32_t tiles,
                                                    uint32_t row, const uint8_t *sums) {
  if (row >= step->n) return;
  switch (step->activation) {
    case SPW_GELU: store_values(step, tile, tiles, row, sums, SPW_GELU); break;
    case SPW_RELU: store_values(step, tile, tiles, row, sums, SPW_RELU); break;
    case SPW_TANH: store_values(step, tile, tiles, row, sums, SPW_TANH); break;
    default: store_values(step, tile, tiles, row, sums, SPW_NONE);
  }
}

#endif
