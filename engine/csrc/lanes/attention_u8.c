/* uint8 attention of one head: both products in integers, queries in the lanes.
 *
 * Keys and values become int8 weights (value - 128) in the layout of a dense layer; sums of rows undo the
 * zero points:  sum (q - a)(k - b) = sum q k8 - a sum k8 + (128 - b)(sum q - a D),  k = k8 + 128. */
#include "lanes.h"
#include "product.h"
#include "softmax.h"

typedef struct head {
  const spw_attention *step;
  const float *mask;
  int8_t *k_weights;   /* [keys/8][D/4][8 keys][4 channels] */
  int8_t *v_weights;   /* [D/8][keys/4][8 channels][4 keys] */
  int32_t *k_sums;     /* of the int8 values of each key */
  int32_t *v_sums;     /* of the int8 values of each channel */
  float *scores;       /* [tile][keys][16] */
  uint8_t *probabilities; /* [tile][keys/4][16][4] */
  uint32_t keys, key_tiles, first_tile, channel;
} head;

SPW_INLINE uint32_t groups_of(const head *h) { return h->step->head_dim / 4; }

static inline uint8_t *at(const spw_tiles *tiles, const head *h, uint32_t tile, uint32_t group) {
  return tiles->base + (h->first_tile + tile) * tiles->stride + (h->channel / 4 + group) * 64;
}

static void pack_keys(const head *h) {
  const vi sign = vi_set1((int32_t)0x80808080u);
  const vw ones = vw_load((const int8_t[4]){1, 1, 1, 1});
  uint32_t groups = groups_of(h);
  for (uint32_t tile = 0; tile < h->key_tiles; tile++) {
    int8_t *to = h->k_weights + (size_t)tile * groups * 64;
    vacc sum = vacc_zero();
    for (uint32_t g = 0; g < groups; g++) {
      const uint8_t *from = at(&h->step->k, h, tile, g);
      uint8_t bytes[64];
      sum = vacc_dot(sum, vx_load(from), ones);
      vi_store(bytes, vi_xor(vi_load(from), sign));
      memcpy(to + g * 32, bytes, 32);
      memcpy(to + (groups + g) * 32, bytes + 32, 32);
    }
    vi_store(h->k_sums + tile * SPW_LANES, vi_sub(vacc_sum(sum), vi_set1((int32_t)(128 * groups * 4))));
  }
}

/* Copies 16 keys of 4 value channels, those behind the sequence's end as zeros. */
static void load_values(const head *h, uint32_t tile, uint32_t group, uint8_t bytes[64]) {
  uint32_t here = at_most(SPW_LANES, h->keys - tile * SPW_LANES);
  memcpy(bytes, at(&h->step->v, h, tile, group), 64);
  memset(bytes + here * 4, 0, 64 - here * 4);
}

static void pack_values(const head *h) {
  const vi sign = vi_set1((int32_t)0x80808080u);
  const vw ones = vw_load((const int8_t[4]){1, 1, 1, 1});
  for (uint32_t g = 0; g < groups_of(h); g++) {
    int8_t *to = h->v_weights + (size_t)(g / 2) * h->key_tiles * 128 + (g % 2) * 16;
    vacc sum = vacc_zero();
    for (uint32_t tile = 0; tile < h->key_tiles; tile++) {
      uint8_t bytes[64], turned[64];
      load_values(h, tile, g, bytes);
      transpose_4x4_bytes(bytes, turned);
      sum = vacc_dot(sum, vx_load(turned), ones);
      vi_store(turned, vi_xor(vi_load(turned), sign));
      for (uint32_t b = 0; b < 4; b++) memcpy(to + (tile * 4 + b) * 32, turned + b * 16, 16);
    }
    int32_t lanes[SPW_LANES];
    vi_store(lanes, vacc_sum(sum));
    for (uint32_t c = 0; c < 4; c++)
      h->v_sums[g * 4 + c] = lanes[c] + lanes[4 + c] + lanes[8 + c] + lanes[12 + c] - 128 * (int32_t)h->keys;
  }
}

/* (128 - zero point of k) * (sum q - zero point of q * D), the part of a score that no key changes. */
SPW_INLINE vi query_part(const head *h, uint32_t tile) {
  const spw_attention *step = h->step;
  const vw ones = vw_load((const int8_t[4]){1, 1, 1, 1});
  vacc sum = vacc_zero();
  for (uint32_t g = 0; g < groups_of(h); g++) sum = vacc_dot(sum, vx_load(at(&step->q, h, tile, g)), ones);
  vi centred = vi_sub(vacc_sum(sum), vi_set1(step->q_quant.zero_point * (int32_t)step->head_dim));
  return vi_mul(centred, vi_set1(128 - step->k_quant.zero_point));
}

SPW_INLINE void score(const head *h, uint32_t tile, const uint32_t tiles, vf *highest) {
  const spw_attention *step = h->step;
  vf scale = vf_set1((float)((double)step->scale * step->q_quant.scale * step->k_quant.scale));
  vi part[S8_TILES];
  for (uint32_t t = 0; t < tiles; t++) part[t] = query_part(h, tile + t);
  for (uint32_t t = 0; t < tiles; t++) highest[t] = vf_set1(-INFINITY);
  for (uint32_t key = 0; key < h->keys; key += SPW_ROW_BLOCK) {
    vi sums[SPW_ROW_BLOCK * S8_TILES];
    product_s8(at(&step->q, h, tile, 0), step->q.stride, h->k_weights + (size_t)key * step->head_dim,
               groups_of(h), tiles, sums);
    for (uint32_t r = 0; r < SPW_ROW_BLOCK; r++) {
      vi shift = vi_set1(h->k_sums[key + r] * step->q_quant.zero_point);
#pragma GCC unroll 8
      for (uint32_t t = 0; t < tiles; t++) {
        vf value = vi_to_float(vi_sub(vi_add(sums[r * tiles + t], part[t]), shift));
        if (key + r < h->keys) {
          value = masked_score(value, scale, h->mask, key + r);
          highest[t] = vf_max(value, highest[t]);
          vf_store(h->scores + ((size_t)t * h->key_tiles * SPW_LANES + key + r) * SPW_LANES, value);
        }
      }
    }
  }
}

/* Quantizes e^score / sum and returns the lane's sum of the bytes; keys behind the end become byte 0. */
SPW_INLINE vi quantize_probabilities(const head *h, const float *scores, uint8_t *to, vf sum) {
  spw_quantization quant = h->step->p_quant;
  vf factor = vf_div(inverse_sum(sum), vf_set1(quant.scale));
  vi total = vi_set1(0);
  for (uint32_t key = 0; key < h->key_tiles * SPW_LANES; key += 4) {
    vi bytes[4];
#pragma GCC unroll 4
    for (uint32_t i = 0; i < 4; i++) {
      bytes[i] = vi_set1(0);
      if (key + i < h->keys)
        bytes[i] = vf_to_u8(vf_mul(vf_load(scores + (key + i) * SPW_LANES), factor), quant.zero_point);
      total = vi_add(total, bytes[i]);
    }
    vi_store(to + key * SPW_LANES, vi_pack4(bytes[0], bytes[1], bytes[2], bytes[3]));
  }
  return total;
}

SPW_INLINE void store4(const head *h, uint32_t tile, uint32_t d, const vf *values) {
  const spw_attention *step = h->step;
  if (step->quantized) {
    vf inverse = vf_set1(1.0f / step->out.scale), scaled[4];
#pragma GCC unroll 4
    for (uint32_t i = 0; i < 4; i++) scaled[i] = vf_mul(values[i], inverse);
    vf_store_u8(at(&step->y, h, tile, d / 4), scaled, step->out.zero_point);
    return;
  }
  float *y = (float *)(step->y.base + (h->first_tile + tile) * step->y.stride);
  for (uint32_t i = 0; i < 4; i++) vf_store(y + (h->channel + d + i) * SPW_LANES, values[i]);
}

SPW_INLINE void weigh(const head *h, uint32_t tile, const uint32_t tiles, const vi *totals) {
  const spw_attention *step = h->step;
  vf scale = vf_set1((float)((double)step->p_quant.scale * step->v_quant.scale));
  int32_t p_zero = step->p_quant.zero_point;
  for (uint32_t d = 0; d < step->head_dim; d += SPW_ROW_BLOCK) {
    vi sums[SPW_ROW_BLOCK * S8_TILES];
    product_s8(h->probabilities, (size_t)h->key_tiles * SPW_LANES * SPW_LANES,
               h->v_weights + (size_t)d * h->key_tiles * SPW_LANES, h->key_tiles * 4, tiles, sums);
    for (uint32_t first = 0; first < at_most(SPW_ROW_BLOCK, step->head_dim - d); first += 4)
      for (uint32_t t = 0; t < tiles; t++) {
        vi part = vi_mul(vi_sub(totals[t], vi_set1(p_zero * (int32_t)h->keys)),
                         vi_set1(128 - step->v_quant.zero_point));
        vf values[4];
        for (uint32_t i = 0; i < 4; i++) {
          vi sum = vi_sub(sums[(first + i) * tiles + t], vi_set1(p_zero * h->v_sums[d + first + i]));
          values[i] = vf_mul(vi_to_float(vi_add(sum, part)), scale);
        }
        store4(h, tile + t, d + first, values);
      }
  }
}

SPW_INLINE void attend(const head *h, uint32_t tile, const uint32_t tiles) {
  vf highest[S8_TILES];
  vi totals[S8_TILES];
  score(h, tile, tiles, highest);
  for (uint32_t t = 0; t < tiles; t++) {
    float *scores = h->scores + (size_t)t * h->key_tiles * SPW_LANES * SPW_LANES;
    vf sum = exponentials(scores, h->keys, highest[t]);
    totals[t] = quantize_probabilities(h, scores, h->probabilities + (size_t)t * h->key_tiles * 256, sum);
  }
  weigh(h, tile, tiles, totals);
}

static uint8_t *take(uint8_t **scratch, size_t size_bytes) {
  uint8_t *part = *scratch;
  *scratch += (size_bytes + 63) / 64 * 64;
  return part;
}

void SPW_KERNEL(attention_u8)(const spw_attention *step, uint32_t sequence, uint32_t head_index,
                              uint32_t tile_begin, uint32_t tile_end, void *scratch) {
  spw_sequence s = step->sequences[sequence];
  uint8_t *free_bytes = scratch;
  head h = {.step = step,
            .mask = step->mask ? step->mask + (size_t)s.first_tile * SPW_LANES : NULL,
            .keys = s.tokens,
            .key_tiles = (s.tokens + SPW_LANES - 1) / SPW_LANES,
            .first_tile = s.first_tile,
            .channel = head_index * step->head_dim};
  size_t keys = (size_t)h.key_tiles * SPW_LANES, rows = (step->head_dim + 7) / 8 * 8;
  h.k_weights = (int8_t *)take(&free_bytes, keys * step->head_dim);
  h.v_weights = (int8_t *)take(&free_bytes, keys * rows);
  h.k_sums = (int32_t *)take(&free_bytes, keys * sizeof(int32_t));
  h.v_sums = (int32_t *)take(&free_bytes, rows * sizeof(int32_t));
  h.scores = (float *)take(&free_bytes, S8_TILES * keys * SPW_LANES * sizeof(float));
  h.probabilities = take(&free_bytes, S8_TILES * keys * SPW_LANES);
  pack_keys(&h);
  pack_values(&h);
  for (uint32_t tile = tile_begin; tile < tile_end; tile += S8_TILES)
    WITH_TILES(at_most(tile_end - tile, S8_TILES), S8_TILES, attend(&h, tile, tiles))
}
