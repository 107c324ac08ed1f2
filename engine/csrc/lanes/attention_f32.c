/* float32 attention of one head: queries in the lanes, keys and values read where they lie. */
#include "lanes.h"
#include "product.h"
#include "softmax.h"

typedef struct head {
  const spw_attention *step;
  const float *mask;  /* this sequence's, or NULL */
  const float *bias;  /* this head's: element query - key, which may be negative; or NULL */
  float *scores;      /* [tile][keys][16] */
  uint32_t keys, key_tiles, first_tile, channel;
} head;

static inline float *at(const spw_tiles *tiles, const head *h, uint32_t tile) {
  return (float *)(tiles->base + (h->first_tile + tile) * tiles->stride) + h->channel * SPW_LANES;
}

SPW_INLINE size_t scores_stride(const head *h) { return (size_t)h->key_tiles * SPW_LANES * SPW_LANES; }

SPW_INLINE void score(const head *h, uint32_t tile, const uint32_t tiles, vf *highest) {
  const spw_attention *step = h->step;
  vf scale = vf_set1(step->scale);
  for (uint32_t t = 0; t < tiles; t++) highest[t] = vf_set1(-INFINITY);
  for (uint32_t key = 0; key < h->keys; key += F32_ROWS) {
    vf acc[F32_ROWS * F32_TILES];
#pragma GCC unroll 32
    for (uint32_t i = 0; i < F32_ROWS * tiles; i++) acc[i] = vf_set1(0.0f);
    product_f32(at(&step->q, h, tile), step->q.stride / sizeof(float),
                at(&step->k, h, key / SPW_LANES) + key % SPW_LANES, SPW_LANES, 1, step->head_dim, F32_ROWS,
                tiles, acc);
    for (uint32_t r = 0; r < at_most(F32_ROWS, h->keys - key); r++)
#pragma GCC unroll 8
      for (uint32_t t = 0; t < tiles; t++) {
        vf value = masked_score(acc[r * tiles + t], scale, h->mask, key + r);
        if (h->bias) value = vf_add(value, vf_load(h->bias + (ptrdiff_t)((tile + t) * SPW_LANES) - (key + r)));
        highest[t] = vf_max(value, highest[t]);
        vf_store(h->scores + t * scores_stride(h) + (key + r) * SPW_LANES, value);
      }
  }
}

/* Rows d..d+rows-1 of the output: the weighted sum of the values, divided by the softmax's sum. */
SPW_INLINE void weigh(const head *h, uint32_t tile, uint32_t d, const uint32_t rows, const uint32_t tiles,
                      const vf *inverse) {
  const spw_attention *step = h->step;
  vf acc[F32_ROWS * F32_TILES];
#pragma GCC unroll 32
  for (uint32_t i = 0; i < rows * tiles; i++) acc[i] = vf_set1(0.0f);
  for (uint32_t kt = 0; kt < h->key_tiles; kt++)
    product_f32(h->scores + kt * SPW_LANES * SPW_LANES, scores_stride(h),
                at(&step->v, h, kt) + d * SPW_LANES, 1, SPW_LANES, at_most(SPW_LANES, h->keys - kt * SPW_LANES),
                rows, tiles, acc);
#pragma GCC unroll 8
  for (uint32_t r = 0; r < rows; r++)
#pragma GCC unroll 8
    for (uint32_t t = 0; t < tiles; t++)
      vf_store(at(&step->y, h, tile + t) + (d + r) * SPW_LANES, vf_mul(acc[r * tiles + t], inverse[t]));
}

SPW_INLINE void attend(const head *h, uint32_t tile, const uint32_t tiles) {
  vf highest[F32_TILES], inverse[F32_TILES];
  score(h, tile, tiles, highest);
  for (uint32_t t = 0; t < tiles; t++)
    inverse[t] = inverse_sum(exponentials(h->scores + t * scores_stride(h), h->keys, highest[t]));
  uint32_t d = 0;
  for (; d + F32_ROWS <= h->step->head_dim; d += F32_ROWS) weigh(h, tile, d, F32_ROWS, tiles, inverse);
  for (; d < h->step->head_dim; d++) weigh(h, tile, d, 1, tiles, inverse);
}

static const float *bias_of(const spw_attention *step, uint32_t head_index) {
  size_t stride = 2 * (size_t)step->bias_length - 1 + SPW_BIAS_MARGIN;
  return step->bias ? step->bias + head_index * stride + step->bias_length - 1 : NULL;
}

void SPW_KERNEL(attention_f32)(const spw_attention *step, uint32_t sequence, uint32_t head_index,
                               uint32_t tile_begin, uint32_t tile_end, void *scratch) {
  spw_sequence s = step->sequences[sequence];
  head h = {.step = step,
            .mask = step->mask ? step->mask + (size_t)s.first_tile * SPW_LANES : NULL,
            .bias = bias_of(step, head_index),
            .scores = scratch,
            .keys = s.tokens,
            .key_tiles = (s.tokens + SPW_LANES - 1) / SPW_LANES,
            .first_tile = s.first_tile,
            .channel = head_index * step->head_dim};
  for (uint32_t tile = tile_begin; tile < tile_end; tile += F32_TILES)
    WITH_TILES(at_most(tile_end - tile, F32_TILES), F32_TILES, attend(&h, tile, tiles))
}
