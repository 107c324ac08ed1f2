#include "lanes.h"
#include "lane_math.h"

/* Sums keep four partial sums, by channel modulo 4: a fixed order that hides the addition's latency. */
SPW_INLINE vf total(const vf *partial) {
  return vf_add(vf_add(partial[0], partial[1]), vf_add(partial[2], partial[3]));
}

static float *tile_at(const spw_tiles *tiles, uint32_t tile) {
  return (float *)(tiles->base + tile * tiles->stride);
}

/* Leaves x + residual in `sum` and returns its mean. */
SPW_INLINE vf gather(const spw_layernorm *step, uint32_t tile, float *sum) {
  const float *x = tile_at(&step->x, tile);
  const float *residual = step->residual.base ? tile_at(&step->residual, tile) : NULL;
  vf partial[4] = {vf_set1(0), vf_set1(0), vf_set1(0), vf_set1(0)};
  for (uint32_t c = 0; c < step->channels; c++) {
    vf value = vf_load(x + c * SPW_LANES);
    if (residual) value = vf_add(value, vf_load(residual + c * SPW_LANES));
    vf_store(sum + c * SPW_LANES, value);
    partial[c % 4] = vf_add(partial[c % 4], value);
  }
  return vf_div(total(partial), vf_set1((float)step->channels));
}

SPW_INLINE vf deviation(const spw_layernorm *step, const float *sum, vf mean) {
  vf partial[4] = {vf_set1(0), vf_set1(0), vf_set1(0), vf_set1(0)};
  for (uint32_t c = 0; c < step->channels; c++) {
    vf centred = vf_sub(vf_load(sum + c * SPW_LANES), mean);
    partial[c % 4] = vf_fma(centred, centred, partial[c % 4]);
  }
  vf variance = vf_div(total(partial), vf_set1((float)step->channels));
  return vf_sqrt(vf_add(variance, vf_set1(step->epsilon)));
}

void SPW_KERNEL(layernorm)(const spw_layernorm *step, uint32_t tile_begin, uint32_t tile_end, void *scratch) {
  vf per_scale = vf_set1(step->y_quantized.base ? 1.0f / step->out.scale : 0.0f);
  for (uint32_t tile = tile_begin; tile < tile_end; tile++) {
    vf mean = gather(step, tile, scratch);
    vf inverse = vf_div(vf_set1(1.0f), deviation(step, scratch, mean));
    const float *sum = scratch;
    for (uint32_t c = 0; c < step->channels; c += 4) {
      vf scaled[4];
#pragma GCC unroll 4
      for (uint32_t i = 0; i < 4; i++) {
        scaled[i] = vf_set1(0.0f);
        if (c + i >= step->channels) continue;
        vf normal = vf_mul(vf_sub(vf_load(sum + (c + i) * SPW_LANES), mean), inverse);
        vf value = vf_fma(normal, vf_set1(step->gamma[c + i]), vf_set1(step->beta[c + i]));
        if (step->y.base) vf_store(tile_at(&step->y, tile) + (c + i) * SPW_LANES, value);
        scaled[i] = vf_mul(value, per_scale);
      }
      if (step->y_quantized.base)
        vf_store_u8(step->y_quantized.base + tile * step->y_quantized.stride + c * SPW_LANES, scaled,
                    step->out.zero_point);
    }
  }
}
