#include "lanes.h"
#include "lane_math.h"

enum { BLOCK = 16 }; /* channels whose mean and deviations are taken while they lie in registers */

/* Of the channels so far: their mean and the sum of their squared distances from it. */
typedef struct moments {
  vf mean, squares;
} moments;

/* x + residual of channels from..from+count-1 of a tile. */
SPW_INLINE void load_sums(const spw_layernorm *step, uint32_t tile, uint32_t from, uint32_t count, vf *sums) {
  const float *x = (const float *)(step->x.base + tile * step->x.stride) + from * SPW_LANES;
#pragma GCC unroll 16
  for (uint32_t i = 0; i < count; i++) sums[i] = vf_load(x + i * SPW_LANES);
  if (step->residual.base == NULL) return;
  const float *residual = (const float *)(step->residual.base + tile * step->residual.stride) + from * SPW_LANES;
#pragma GCC unroll 16
  for (uint32_t i = 0; i < count; i++) sums[i] = vf_add(sums[i], vf_load(residual + i * SPW_LANES));
}

/* Adds a block to the moments of the `before` channels in front of it (Chan, Golub and LeVeque, 1979). Sums keep four
 * partial sums, a fixed order that hides the addition's latency. */
SPW_INLINE void add_block(moments *m, const vf *sums, uint32_t count, uint32_t before) {
  vf partial[4] = {vf_set1(0), vf_set1(0), vf_set1(0), vf_set1(0)};
  vf squares[4] = {m->squares, vf_set1(0), vf_set1(0), vf_set1(0)};
#pragma GCC unroll 16
  for (uint32_t i = 0; i < count; i++) partial[i % 4] = vf_add(partial[i % 4], sums[i]);
  vf sum = vf_add(vf_add(partial[0], partial[1]), vf_add(partial[2], partial[3]));
  vf mean = vf_mul(sum, vf_set1(1.0f / (float)count));
#pragma GCC unroll 16
  for (uint32_t i = 0; i < count; i++) {
    vf distance = vf_sub(sums[i], mean);
    squares[i % 4] = vf_fma(distance, distance, squares[i % 4]);
  }
  float share = (float)count / (float)(before + count);
  vf apart = vf_sub(mean, m->mean);
  m->mean = vf_fma(apart, vf_set1(share), m->mean);
  m->squares = vf_fma(vf_mul(apart, apart), vf_set1(share * (float)before),
                      vf_add(vf_add(squares[0], squares[1]), vf_add(squares[2], squares[3])));
}

SPW_INLINE moments moments_of(const spw_layernorm *step, uint32_t tile) {
  moments m = {vf_set1(0.0f), vf_set1(0.0f)};
  vf sums[BLOCK];
  uint32_t c = 0;
  for (; c + BLOCK <= step->channels; c += BLOCK) {
    load_sums(step, tile, c, BLOCK, sums);
    add_block(&m, sums, BLOCK, c);
  }
  if (c < step->channels) {
    load_sums(step, tile, c, step->channels - c, sums);
    add_block(&m, sums, step->channels - c, c);
  }
  return m;
}

/* Normalises and stores channels from..from+count-1, at most four. */
SPW_INLINE void store_normalised(const spw_layernorm *step, uint32_t tile, uint32_t from, uint32_t count, vf mean,
                                 vf inverse) {
  vf per_scale = vf_set1(step->y_quantized.base ? 1.0f / step->out.scale : 0.0f);
  vf values[4] = {vf_set1(0), vf_set1(0), vf_set1(0), vf_set1(0)};
  load_sums(step, tile, from, count, values);
#pragma GCC unroll 4
  for (uint32_t i = 0; i < count; i++) {
    vf normal = vf_mul(vf_sub(values[i], mean), inverse);
    values[i] = vf_fma(normal, vf_set1(step->gamma[from + i]), vf_set1(step->beta[from + i]));
    if (step->y.base) vf_store((float *)(step->y.base + tile * step->y.stride) + (from + i) * SPW_LANES, values[i]);
    values[i] = vf_mul(values[i], per_scale);
  }
  if (step->y_quantized.base)
    vf_store_u8(step->y_quantized.base + tile * step->y_quantized.stride + from * SPW_LANES, values,
                step->out.zero_point);
}

void SPW_KERNEL(layernorm)(const spw_layernorm *step, uint32_t tile_begin, uint32_t tile_end) {
  for (uint32_t tile = tile_begin; tile < tile_end; tile++) {
    moments m = moments_of(step, tile);
    vf variance = vf_div(m.squares, vf_set1((float)step->channels));
    vf inverse = vf_div(vf_set1(1.0f), vf_sqrt(vf_add(variance, vf_set1(step->epsilon))));
    uint32_t c = 0;
    for (; c + 4 <= step->channels; c += 4) store_normalised(step, tile, c, 4, m.mean, inverse);
    if (c < step->channels) store_normalised(step, tile, c, step->channels - c, m.mean, inverse);
  }
}
