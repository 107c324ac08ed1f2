#include "lanes.h"
#include "lane_math.h"

static float *row_at(const spw_tiles *tiles, uint32_t tile, uint32_t channel) {
  return (float *)(tiles->base + tile * tiles->stride) + channel * SPW_LANES;
}

void SPW_KERNEL(quantize)(const spw_quantize *step, uint32_t tile_begin, uint32_t tile_end) {
  for (uint32_t tile = tile_begin; tile < tile_end; tile++)
    for (uint32_t c = 0; c < step->channels; c += 4) {
      vi bytes[4];
#pragma GCC unroll 4
      for (uint32_t i = 0; i < 4; i++)
        bytes[i] = c + i < step->channels ? vf_quantized(vf_load(row_at(&step->x, tile, c + i)), step->quantization)
                                          : vi_set1(0);
      vi_store(step->y.base + tile * step->y.stride + c * SPW_LANES,
               vi_pack4(bytes[0], bytes[1], bytes[2], bytes[3]));
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
