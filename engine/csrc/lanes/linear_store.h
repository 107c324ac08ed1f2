/* What follows an integer product in registers: scale, bias, activation, store. Include after lanes.h. */
#ifndef SPW_LINEAR_STORE_H
#define SPW_LINEAR_STORE_H

#include "product.h"

SPW_INLINE vf linear_value(const spw_linear_u8 *step, uint32_t row, vi sum) {
  vf value = vi_to_float(vi_sub(sum, vi_set1(step->correction[row])));
  value = vf_fma(value, vf_set1(step->scale[row]), vf_set1(step->bias[row]));
  return vf_activation(value, step->activation);
}

/* Stores rows row..row+3 of one tile, of which those below n exist in a float32 y. `sums` is one a row.
 * Kept out of line: four activations inlined at every place that multiplies would bury the products. */
static __attribute__((noinline)) void linear_store4(const spw_linear_u8 *step, uint32_t tile, uint32_t row,
                                                    const vi *sums) {
  uint8_t *y = step->y.base + tile * step->y.stride;
  if (row >= step->n) return;
  if (step->quantized) {
    vi bytes[4];
    for (uint32_t r = 0; r < 4; r++) bytes[r] = vf_quantized(linear_value(step, row + r, sums[r]), step->out);
    vi_store(y + row * SPW_LANES, vi_pack4(bytes[0], bytes[1], bytes[2], bytes[3]));
    return;
  }
  for (uint32_t r = 0; r < at_most(4, step->n - row); r++)
    vf_store((float *)y + (row + r) * SPW_LANES, linear_value(step, row + r, sums[r]));
}

#endif
