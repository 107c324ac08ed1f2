#include <float.h>

#include "lanes.h"
#include "lane_math.h"

static float *row_at(const spw_tiles *tiles, uint32_t tile, uint32_t channel) {
  return (float *)(tiles->base + tile * tiles->stride) + channel * SPW_LANES;
}

void SPW_KERNEL(quantize)(const spw_quantize *step, uint32_t tile_begin, uint32_t tile_end) {
  vf inverse = vf_set1(1.0f / step->quantization.scale);
  for (uint32_t tile = tile_begin; tile < tile_end; tile++)
    for (uint32_t c = 0; c < step->channels; c += 4) {
      vf scaled[4];
#pragma GCC unroll 4
      for (uint32_t i = 0; i < 4; i++)
        scaled[i] = c + i < step->channels ? vf_mul(vf_load(row_at(&step->x, tile, c + i)), inverse) : vf_set1(0.0f);
      vf_store_u8(step->y.base + tile * step->y.stride + c * SPW_LANES, scaled, step->quantization.zero_point);
    }
}

/* Each lane's token has a scale and a zero point of its own: bytes span its channels and zero. */
static void token_scale(const spw_quantize *step, uint32_t tile, vf *scale, vf *zero) {
  vf low = vf_set1(0.0f), high = low;
  for (uint32_t c = 0; c < step->channels; c++) {
    vf x = vf_load(row_at(&step->x, tile, c));
    low = vf_min(low, x);
    high = vf_max(high, x);
  }
  vf found = vf_div(vf_sub(high, low), vf_set1(255.0f));
  *scale = vf_where_less(found, vf_set1(FLT_MIN), vf_set1(1.0f), found);
  *zero = vf_round(vf_div(vf_sub(vf_set1(0.0f), low), *scale));
}

void SPW_KERNEL(quantize_tokens)(const spw_quantize *step, uint32_t tile_begin, uint32_t tile_end) {
  for (uint32_t tile = tile_begin; tile < tile_end; tile++) {
    vf scale, zero;
    token_scale(step, tile, &scale, &zero);
    vf inverse = vf_div(vf_set1(1.0f), scale);
    for (uint32_t c = 0; c < step->channels; c += 4) {
      vf q[4];
#pragma GCC unroll 4
      for (uint32_t i = 0; i < 4; i++) {
        vf x = c + i < step->channels ? vf_load(row_at(&step->x, tile, c + i)) : vf_set1(0.0f);
        q[i] = vf_add(vf_round(vf_mul(x, inverse)), zero);
      }
      vf_store_u8(step->y.base + tile * step->y.stride + c * SPW_LANES, q, 0);
    }
    vf_store(row_at(&step->scales, tile, 0), scale);
    vf_store(row_at(&step->scales, tile, 1), vf_sub(zero, vf_set1(128.0f)));
  }
}

SPW_INLINE void rescale_rows(const spw_rescale *step, uint32_t tile, uint32_t c, const uint32_t count) {
  vf scale = vf_load(row_at(&step->scales, tile, 0)), zero = vf_load(row_at(&step->scales, tile, 1)), y[4];
  const float *from = row_at(&step->x, tile, c);
#pragma GCC unroll 4
  for (uint32_t i = 0; i < count; i++) {
    vf x = vf_sub(vf_load(from + i * SPW_LANES), vf_mul(zero, vf_set1(step->offset[c + i])));
    y[i] = vf_add(vf_mul(x, scale), vf_set1(step->bias[c + i]));
  }
  if (step->activation != SPW_NONE)
    for (uint32_t i = 0; i < count; i++) y[i] = vf_activation(y[i], step->activation);
#pragma GCC unroll 4
  for (uint32_t i = 0; i < count; i++) vf_store(row_at(&step->y, tile, c) + i * SPW_LANES, y[i]);
}

void SPW_KERNEL(rescale)(const spw_rescale *step, uint32_t tile_begin, uint32_t tile_end) {
  for (uint32_t tile = tile_begin; tile < tile_end; tile++) {
    uint32_t c = 0;
    for (; c + 4 <= step->channels; c += 4) rescale_rows(step, tile, c, 4);
    for (; c < step->channels; c++) rescale_rows(step, tile, c, 1);
  }
}

void SPW_KERNEL(dequantize)(const spw_quantize *step, uint32_t tile_begin, uint32_t tile_end) {
  for (uint32_t tile = tile_begin; tile < tile_end; tile++)
    for (uint32_t c = 0; c < step->channels; c += 4) {
      vi bytes[4];
      vi_unpack4(vi_load(step->x.base + tile * step->x.stride + c * SPW_LANES), bytes);
#pragma GCC unroll 4
      for (uint32_t i = 0; i < 4; i++)
        if (c + i < step->channels)
          vf_store(row_at(&step->y, tile, c + i), vi_dequantized(bytes[i], step->quantization));
    }
}

void SPW_KERNEL(activate)(const spw_elementwise *step, uint32_t tile_begin, uint32_t tile_end) {
  for (uint32_t tile = tile_begin; tile < tile_end; tile++)
    for (uint32_t c = 0; c < step->channels; c++)
      vf_store(row_at(&step->y, tile, c), vf_activation(vf_load(row_at(&step->x, tile, c)), step->activation));
}

void SPW_KERNEL(add)(const spw_elementwise *step, uint32_t tile_begin, uint32_t tile_end) {
  for (uint32_t tile = tile_begin; tile < tile_end; tile++)
    for (uint32_t c = 0; c < step->channels; c++)
      vf_store(row_at(&step->y, tile, c),
               vf_add(vf_load(row_at(&step->x, tile, c)), vf_load(row_at(&step->right, tile, c))));
}
