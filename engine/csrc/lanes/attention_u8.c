/* uint8 attention of one head: both products in integers, queries in the lanes.
 *
 * Keys and values become int8 weights (value - 128) in the layout of a dense layer; sums of rows undo the
 * zero points:  sum (q - a)(k - b) = sum q k8 - a sum k8 + (128 - b)(sum q - a D),  k = k8 + 128. The last part is
 * the same for all keys of a query, so that the softmax is too without it. */
#include "lanes.h"
#include "product.h"
#include "softmax.h"

typedef struct head {
  const spw_attention *step;
  const float *mask;   /* this sequence's, or NULL */
  float *masks;        /* what is added to the scores of each key */
  int8_t *k_weights;   /* [keys/16][D/4][16 keys][4 channels] */
  int8_t *v_weights;   /* [D/8][keys/4][8 channels][4 keys] */
  int32_t *k_sums;     /* of the int8 values of each key, times minus the queries' zero point */
  int32_t *v_sums;     /* of the int8 values of each channel, times the probabilities' zero point */
  float *scores;       /* [keys][16], of one tile, as powers of two */
  float *heights;      /* [keys/8][16], those that the scores were taken from */
  uint8_t *probabilities; /* [keys/4][16][4] */
  uint32_t keys, padded_keys, key_tiles, first_tile, channel;
  float scale; /* of the scores, as powers of two */
  float unit;  /* of the results' sums, in units of the output's scale where that is quantized */
} head;

SPW_INLINE uint32_t groups_of(const head *h) { return h->step->head_dim / 4; }

static inline uint8_t *at(const spw_tiles *tiles, const head *h, uint32_t tile, uint32_t group) {
  return tiles->base + (h->first_tile + tile) * tiles->stride + (h->channel / 4 + group) * 64;
}

/* Adds the products of one group of four channels with the rows at w, S8_ROWS of a block's eight. */
SPW_INLINE void add_products(vacc *acc, vx x, const int8_t *w) {
#pragma GCC unroll 8
  for (uint32_t r = 0; r < S8_ROWS; r++) acc[r] = vacc_dot_at(acc[r], x, w + r * 4);
}

SPW_INLINE void start_sums(vacc *acc) {
#pragma GCC unroll 8
  for (uint32_t r = 0; r < S8_ROWS; r++) acc[r] = vacc_zero();
}

SPW_INLINE void end_sums(const vacc *acc, vi *sums) {
#pragma GCC unroll 8
  for (uint32_t r = 0; r < S8_ROWS; r++) sums[r] = vacc_sum(acc[r]);
}

/* The sums over `groups` of one tile with S8_ROWS rows. */
SPW_INLINE void product_rows(const uint8_t *x, const int8_t *w, uint32_t groups, vi *sums) {
  vacc acc[S8_ROWS];
  start_sums(acc);
  for (uint32_t g = 0; g < groups; g++, x += 64, w += SPW_ROW_BLOCK * 4) add_products(acc, vx_load(x), w);
  end_sums(acc, sums);
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
      sum = vacc_dot(sum, vx_load(from), ones);
      vi_store(to + g * 64, vi_xor(vi_load(from), sign));
    }
    vi centred = vi_sub(vacc_sum(sum), vi_set1((int32_t)(128 * groups * 4)));
    vi_store(h->k_sums + tile * SPW_LANES, vi_mul(centred, vi_set1(-h->step->q_quant.zero_point)));
  }
}

/* Keys behind the sequence's end become zeros as int8. */
SPW_INLINE const uint8_t *without_end(const uint8_t *group, uint32_t keys, uint8_t *copy) {
  if (keys >= SPW_LANES) return group;
  memcpy(copy, group, 64);
  memset(copy + keys * 4, 128, 64 - keys * 4);
  return copy;
}

/* Packs 16 keys of 8 value channels at a time; the last 4 of those may not exist. */
static void pack_values(const head *h) {
  uint32_t groups = groups_of(h);
  for (uint32_t tile = 0; tile < h->key_tiles; tile++)
    for (uint32_t g = 0; g < groups; g += 2) {
      uint8_t copies[2][64];
      const uint8_t *from[2] = {at(&h->step->v, h, tile, g), at(&h->step->v, h, tile, at_most(g + 1, groups - 1))};
      for (int i = 0; i < 2; i++) from[i] = without_end(from[i], h->keys - tile * SPW_LANES, copies[i]);
      pack_values8(from[0], from[1], h->v_weights + ((size_t)(g / 2) * h->key_tiles + tile) * 128);
    }
}

/* What the probabilities' zero point adds to each channel: that times the sum of the channel's values. */
static void sum_values(const head *h) {
  const uint32_t zero_point = (uint32_t)h->step->p_quant.zero_point;
  memset(h->v_sums, 0, h->step->head_dim * sizeof *h->v_sums);
  for (uint32_t d = 0; zero_point != 0 && d < h->step->head_dim; d++) {
    uint32_t row = d % SPW_ROW_BLOCK, sum = 0;
    const int8_t *w = h->v_weights + (size_t)(d - row) * h->key_tiles * SPW_LANES + row * 4;
    for (uint32_t key = 0; key < h->keys; key += 4, w += SPW_ROW_BLOCK * 4)
      sum += (uint32_t)(w[0] + w[1] + w[2] + w[3]);
    h->v_sums[d] = (int32_t)(zero_point * sum);
  }
}

/* The softmax of a tile while its keys are walked (Milakov and Gimelshein, 2018), in powers of two: `sum` adds up
 * 2^(score - height). The height is the highest score so far, rounded to an integer, so that a higher one changes the
 * exponents of what is there and nothing else. */
typedef struct softmax {
  vf highest, height, sum;
} softmax;

/* Scores beyond 2^21, where float32 has hardly a fraction left, are taken as they are. */
SPW_INLINE vf height_of(vf highest) {
  const vf limit = vf_set1(2097152.0f);
  vf bounded = vf_max(vf_min(highest, limit), vf_sub(vf_set1(0.0f), limit));
  return vf_add(vf_round(bounded), vf_sub(highest, bounded));
}

/* 2^n for a whole n <= 0, at least 2^-126. */
SPW_INLINE vf power_of_two(vf n) {
  vi exponent = vf_to_int(vf_max(n, vf_set1(-126.0f)));
  return vi_as_float(vi_shl(vi_add(exponent, vi_set1(127)), 23));
}

/* Stores 2^(score - height) of one key and adds it to the sum. */
SPW_INLINE void exponentiate(softmax *soft, vf score, float *to) {
  vf e = vf_exp2(vf_sub(score, soft->height));
  vf_store(to, e);
  soft->sum = vf_add(soft->sum, e);
}

/* Multiplies a tile of queries by eight keys. Among the products, the powers of the block before are computed, so that
 * each uses the units that the other leaves idle. */
SPW_INLINE void multiply_keys(const head *h, const uint8_t *queries, const int8_t *w, softmax *soft, const vf *before,
                              float *to, vi *sums) {
  const uint32_t groups = groups_of(h);
#pragma GCC unroll 8
  for (uint32_t first = 0; first < SPW_ROW_BLOCK; first += S8_ROWS) {
    const uint8_t *x = queries;
    const int8_t *weights = w + first * 4;
    vacc acc[S8_ROWS];
    start_sums(acc);
#pragma GCC unroll 8
    for (uint32_t r = 0; r < S8_ROWS; r++) {
      for (const uint8_t *end = queries + groups * (r + 1) / S8_ROWS * (size_t)64; x != end;
           x += 64, weights += SPW_LANES * 4)
        add_products(acc, vx_load(x), weights);
      exponentiate(soft, before[first + r], to + (first + r) * SPW_LANES);
    }
    end_sums(acc, sums + first);
  }
}

/* Scales the sums of eight keys, and rescales what has been summed up so far if one of them is the highest. */
SPW_INLINE void scale_scores(const head *h, uint32_t key, const vi *sums, softmax *soft, vf *scores) {
  vf before = soft->height;
#pragma GCC unroll 8
  for (uint32_t r = 0; r < SPW_ROW_BLOCK; r++) {
    vf value = vi_to_float(vi_add(sums[r], vi_set1(h->k_sums[key + r])));
    scores[r] = vf_fma(value, vf_set1(h->scale), vf_set1(h->masks[key + r]));
    soft->highest = vf_max(scores[r], soft->highest);
  }
  soft->height = height_of(soft->highest);
  soft->sum = vf_mul(soft->sum, power_of_two(vf_sub(before, soft->height)));
  vf_store(h->heights + key / SPW_ROW_BLOCK * SPW_LANES, soft->height);
}

/* Leaves 2^(score - height) of each key in h->scores. Among the first block's products, powers that count for nothing
 * are stored where its own will be. */
SPW_INLINE softmax score(const head *h, uint32_t tile) {
  const uint8_t *queries = at(&h->step->q, h, tile, 0);
  float *to = h->scores;
  softmax soft = {vf_set1(-FLT_MAX), vf_set1(-FLT_MAX), vf_set1(0.0f)};
  vf scores[SPW_ROW_BLOCK];
  vi sums[SPW_ROW_BLOCK];
#pragma GCC unroll 8
  for (uint32_t r = 0; r < SPW_ROW_BLOCK; r++) scores[r] = vf_set1(-INFINITY);
  for (uint32_t key = 0; key < h->keys; key += SPW_ROW_BLOCK) {
    const int8_t *w = h->k_weights + (size_t)(key / SPW_LANES) * SPW_LANES * h->step->head_dim + key % SPW_LANES * 4;
    multiply_keys(h, queries, w, &soft, scores, to, sums);
    scale_scores(h, key, sums, &soft, scores);
    to = h->scores + (size_t)key * SPW_LANES;
  }
#pragma GCC unroll 8
  for (uint32_t r = 0; r < SPW_ROW_BLOCK; r++) exponentiate(&soft, scores[r], to + r * SPW_LANES);
  for (uint32_t key = h->keys; key < h->padded_keys; key++)
    vf_store(h->scores + (size_t)key * SPW_LANES, vf_set1(0.0f));
  return soft;
}

/* Quantizes the shares that four keys have of the sum, as one group of `to`. */
SPW_INLINE void quantize_group(const float *scores, vf share, int32_t zero_point, uint8_t *to) {
  vf scaled[4];
#pragma GCC unroll 4
  for (uint32_t i = 0; i < 4; i++) scaled[i] = vf_mul(vf_load(scores + i * SPW_LANES), share);
  vf_store_u8(to, scaled, zero_point);
}

/* Where all eight channels of a block are summed at once, registers hold those of two blocks. */
enum { BLOCKS_BESIDE = (int)S8_ROWS == (int)SPW_ROW_BLOCK ? 2 : 1 };

/* Quantizes the probabilities and multiplies those of the block of keys before by the first values meanwhile: S8_ROWS
 * channels of BLOCKS_BESIDE blocks. Returns each lane's sum of the bytes. */
SPW_INLINE vi quantize_probabilities(const head *h, const softmax *soft, vi *sums) {
  const int32_t zero_point = h->step->p_quant.zero_point;
  const vw ones = vw_load((const int8_t[4]){1, 1, 1, 1});
  const vf factor = vf_div(inverse_sum(soft->sum), vf_set1(h->step->p_quant.scale));
  const uint32_t blocks = h->padded_keys / SPW_ROW_BLOCK;
  const float *scores = h->scores;
  const size_t next = h->step->head_dim > SPW_ROW_BLOCK ? (size_t)SPW_ROW_BLOCK * h->key_tiles * SPW_LANES : 0;
  const int8_t *w = h->v_weights;
  uint8_t *to = h->probabilities;
  vacc total = vacc_zero(), acc[BLOCKS_BESIDE][S8_ROWS];
#pragma GCC unroll 2
  for (int i = 0; i < BLOCKS_BESIDE; i++) start_sums(acc[i]);
  for (uint32_t block = 0; block <= blocks; block++) {
    vf share = factor;
    if (block < blocks)
      share = vf_mul(factor, power_of_two(vf_sub(vf_load(h->heights + block * SPW_LANES), soft->height)));
#pragma GCC unroll 2
    for (uint32_t half = 0; half < 2; half++, scores += 4 * SPW_LANES, to += 64) {
      if (block < blocks) quantize_group(scores, share, zero_point, to);
      if (block == 0) continue;
      vx bytes = vx_load(to - 128);
      total = vacc_dot(total, bytes, ones);
#pragma GCC unroll 2
      for (int i = 0; i < BLOCKS_BESIDE; i++) add_products(acc[i], bytes, w + i * next);
      w += SPW_ROW_BLOCK * 4;
    }
  }
#pragma GCC unroll 2
  for (int i = 0; i < BLOCKS_BESIDE; i++) end_sums(acc[i], sums + i * SPW_ROW_BLOCK);
  return vacc_sum(total);
}

SPW_INLINE void store4(const head *h, uint32_t tile, uint32_t d, const vf *values) {
  const spw_attention *step = h->step;
  if (step->quantized) {
    vf_store_u8(at(&step->y, h, tile, d / 4), values, step->out.zero_point);
    return;
  }
  float *y = (float *)(step->y.base + (h->first_tile + tile) * step->y.stride);
  for (uint32_t i = 0; i < 4; i++) vf_store(y + (h->channel + d + i) * SPW_LANES, values[i]);
}

/* Stores the rows d..d+7 of a tile of the output, those that exist; `part` is missing from each sum. */
SPW_INLINE void store_rows(const head *h, uint32_t tile, uint32_t d, const vi *sums, vi part) {
  const vf unit = vf_set1(h->unit);
  for (uint32_t first = 0; first < at_most(SPW_ROW_BLOCK, h->step->head_dim - d); first += 4) {
    vf values[4];
#pragma GCC unroll 4
    for (uint32_t i = 0; i < 4; i++) {
      vi sum = vi_sub(vi_add(sums[first + i], part), vi_set1(h->v_sums[d + first + i]));
      values[i] = vf_mul(vi_to_float(sum), unit);
    }
    store4(h, tile, d + first, values);
  }
}

SPW_INLINE void weigh(const head *h, uint32_t tile, const softmax *soft) {
  const int32_t zeros = h->step->p_quant.zero_point * (int32_t)h->padded_keys;
  const uint32_t groups = h->padded_keys / 4;
  vi beside[BLOCKS_BESIDE * SPW_ROW_BLOCK], sums[SPW_ROW_BLOCK];
  vi total = quantize_probabilities(h, soft, beside);
  vi part = vi_mul(vi_sub(total, vi_set1(zeros)), vi_set1(128 - h->step->v_quant.zero_point));
  for (uint32_t d = 0; d < h->step->head_dim; d += SPW_ROW_BLOCK) {
    const int8_t *w = h->v_weights + (size_t)d * h->key_tiles * SPW_LANES;
    bool begun = d < BLOCKS_BESIDE * SPW_ROW_BLOCK;
    vi *found = begun ? beside + d : sums;
    for (uint32_t first = begun ? S8_ROWS : 0; first < SPW_ROW_BLOCK; first += S8_ROWS)
      product_rows(h->probabilities, w + first * 4, groups, found + first);
    store_rows(h, tile, d, found, part);
  }
}

static void attend(const head *h, uint32_t tile) {
  softmax soft = score(h, tile);
  weigh(h, tile, &soft);
}

/* The mask in powers of two, where finite values stay finite; keys behind the end are hidden. */
static void scale_masks(const head *h) {
  for (uint32_t key = 0; key < h->key_tiles * SPW_LANES; key += SPW_LANES) {
    vf mask = h->mask ? vf_load(h->mask + key) : vf_set1(0.0f);
    vf scaled = vf_max(vf_mul(mask, vf_set1(1.44269504f)), vf_set1(-FLT_MAX));
    vf_store(h->masks + key, vf_where_less(mask, vf_set1(-FLT_MAX), mask, scaled));
  }
  for (uint32_t key = h->keys; key < h->padded_keys; key++) h->masks[key] = -INFINITY;
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
            .padded_keys = (s.tokens + SPW_ROW_BLOCK - 1) / SPW_ROW_BLOCK * SPW_ROW_BLOCK,
            .key_tiles = (s.tokens + SPW_LANES - 1) / SPW_LANES,
            .first_tile = s.first_tile,
            .channel = head_index * step->head_dim,
            .scale = (float)(1.4426950408889634 * step->scale * step->q_quant.scale * step->k_quant.scale)};
  double unit = (double)step->p_quant.scale * step->v_quant.scale;
  h.unit = (float)(step->quantized ? unit / step->out.scale : unit);
  size_t keys = (size_t)h.key_tiles * SPW_LANES, rows = (step->head_dim + 7) / 8 * 8;
  h.k_weights = (int8_t *)take(&free_bytes, keys * step->head_dim);
  h.v_weights = (int8_t *)take(&free_bytes, keys * rows);
  h.k_sums = (int32_t *)take(&free_bytes, keys * sizeof(int32_t));
  h.v_sums = (int32_t *)take(&free_bytes, rows * sizeof(int32_t));
  h.masks = (float *)take(&free_bytes, keys * sizeof(float));
  h.scores = (float *)take(&free_bytes, keys * SPW_LANES * sizeof(float));
  h.heights = (float *)take(&free_bytes, keys / SPW_ROW_BLOCK * SPW_LANES * sizeof(float));
  h.probabilities = take(&free_bytes, keys * SPW_LANES);
  pack_keys(&h);
  pack_values(&h);
  sum_values(&h);
  scale_masks(&h);
  for (uint32_t tile = tile_begin; tile < tile_end; tile++) attend(&h, tile);
}
