/* What follows an integer product: scale, bias, activation, store. Include after lanes.h. */
#ifndef SPW_LINEAR_STORE_H
#define SPW_LINEAR_STORE_H

#include "product.h"

/* A kernel whose sums start at what the correction takes away says so. */
#ifndef SUMS_ARE_CORRECTED
#define SUMS_ARE_CORRECTED 0
#endif

SPW_INLINE vf linear_value(const spw_linear_u8 *step, uint32_t row, vi sum) {
  vf value = vi_to_float(SUMS_ARE_CORRECTED ? sum : vi_sub(sum, vi_set1(step->correction[row])));
  return vf_add(vf_mul(value, vf_set1(step->scale[row])), vf_set1(step->bias[row]));
}

/* What becomes bytes by rounding. */
SPW_INLINE void scaled4(const spw_linear_u8 *step, vf values[4], const spw_activation activation) {
  if (activation == SPW_GELU) {
    vf_gelu_bytes4(values, &step->gelu);
    return;
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) values[i] = vf_activation(values[i], activation);
  if (activation != SPW_TANH) return;
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) values[i] = vf_mul(values[i], vf_set1(1.0f / step->out.scale));
}

/* Four rows of one tile, with `stride` bytes from one's sums to the next's. Those below n exist in a float32 y. */
SPW_INLINE void store4(const spw_linear_u8 *step, uint8_t *y, const float *residual, uint32_t row,
                       const uint8_t *sums, size_t stride, const bool quantized, const spw_activation activation) {
  vf values[4];
#pragma GCC unroll 4
  for (uint32_t r = 0; r < 4; r++) values[r] = linear_value(step, row + r, vi_load(sums + r * stride));
  if (quantized) {
    scaled4(step, values, activation);
    vf_store_u8(y + row * SPW_LANES, values, step->out.zero_point);
    return;
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) values[i] = vf_activation(values[i], activation);
  for (uint32_t r = 0; r < at_most(4, step->n - row); r++) {
    size_t at = (row + r) * SPW_LANES;
    vf_store((float *)y + at, residual ? vf_add(values[r], vf_load(residual + at)) : values[r]);
  }
}

SPW_INLINE const float *residual_at(const spw_linear_u8 *step, uint32_t tile) {
  return step->residual.base ? (const float *)(step->residual.base + tile * step->residual.stride) : NULL;
}

SPW_INLINE void store_rows(const spw_linear_u8 *step, uint32_t tile, uint32_t tiles, uint32_t row, uint32_t end,
                           const uint8_t *sums, const bool quantized, const spw_activation activation) {
  size_t stride = (size_t)tiles * 64;
  for (; row < at_most(end, step->n); row += 4, sums += 4 * stride)
    for (uint32_t t = 0; t < tiles; t++)
      store4(step, step->y.base + (tile + t) * step->y.stride, residual_at(step, tile + t), row, sums + t * 64, stride,
             quantized, activation);
}

/* Stores rows [row, end), in fours, of tiles tile..tile+tiles-1 from their int32 sums [rows][tiles][16].
 * Kept out of line: four activations inlined at every place that multiplies would bury the products. */
static __attribute__((noinline)) void linear_store(const spw_linear_u8 *step, uint32_t tile, uint32_t tiles,
                                                   uint32_t row, uint32_t end, const uint8_t *sums) {
#define STORE_AS(activation)                                                         \
  if (step->quantized) store_rows(step, tile, tiles, row, end, sums, true, activation); \
  else store_rows(step, tile, tiles, row, end, sums, false, activation);             \
  break
  switch (step->activation) {
    case SPW_GELU: STORE_AS(SPW_GELU);
    case SPW_RELU: STORE_AS(SPW_RELU);
    case SPW_TANH: STORE_AS(SPW_TANH);
    case SPW_GELU_TANH: STORE_AS(SPW_GELU_TANH);
    default: STORE_AS(SPW_NONE);
  }
#undef STORE_AS
}

#endif
