/* Runs every kernel of every instruction set that this CPU has on random data of awkward sizes, twice: with the
 * scalar kernel and with the candidate. Both outputs start as the same sentinel bytes, so a missing or a stray
 * write shows; results must be equal to the last bit. Prints nothing and exits 0 when all is well. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "sparrow.h"

enum { MARGIN = 256, SENTINEL = 0xa5, ROUNDS = 40 };

typedef struct block {
  uint8_t *start, *data; /* data lies MARGIN bytes behind start and in front of the end */
  size_t size;
} block;

static uint32_t seed = 1;
static int failures;

static uint32_t next(void) {
  seed = seed * 1664525u + 1013904223u;
  return seed >> 8;
}
static uint32_t pick(uint32_t low, uint32_t high) { return low + next() % (high - low + 1); }
static float real(void) { return ((float)next() / 8388608.0f - 1.0f) * 3.0f; }

static block make(size_t size) {
  block b = {malloc(size + 2 * MARGIN), NULL, size};
  if (b.start == NULL) exit(2);
  b.data = b.start + MARGIN;
  memset(b.start, SENTINEL, size + 2 * MARGIN);
  return b;
}
static block bytes(size_t size) {
  block b = make(size);
  for (size_t i = 0; i < size; i++) b.data[i] = (uint8_t)next();
  return b;
}
static block reals(size_t count) {
  block b = make(count * sizeof(float));
  for (size_t i = 0; i < count; i++) ((float *)b.data)[i] = real();
  return b;
}
static void drop(block b) { free(b.start); }

static int margins_hold(block b) {
  for (size_t i = 0; i < MARGIN; i++)
    if (b.start[i] != SENTINEL || b.data[b.size + i] != SENTINEL) return 0;
  return 1;
}

/* Compares the outputs of the two kernels and frees them. */
static void compare(const char *kernel, const char *isa, block expected, block got) {
  int equal = memcmp(expected.data, got.data, expected.size) == 0;
  if (!equal || !margins_hold(got) || !margins_hold(expected)) {
    fprintf(stderr, "%s %s: %s\n", kernel, isa, equal ? "wrote outside its output" : "differs from scalar");
    failures++;
  }
  drop(expected);
  drop(got);
}

static size_t u8_tile(uint32_t channels) { return (size_t)(channels + 3) / 4 * 64; }
static size_t f32_tile(uint32_t channels) { return (size_t)channels * 64; }
static spw_tiles tiles(block b, size_t stride) { return (spw_tiles){b.data, stride}; }
static uint32_t rows_of(uint32_t n) { return (n + SPW_ROW_BLOCK - 1) / SPW_ROW_BLOCK * SPW_ROW_BLOCK; }

typedef struct sparse {
  block starts, indices, weights;
} sparse;

/* Random blocks: each is present with a chance of `percent`. */
static sparse make_sparse(uint32_t rows, uint32_t groups, uint32_t chunk_groups, uint32_t percent) {
  uint32_t chunks = (groups + chunk_groups - 1) / chunk_groups, count = 0;
  sparse s = {make(((size_t)rows * chunks + 1) * 4), make((size_t)rows * groups * 2), bytes((size_t)rows * groups * 4)};
  uint32_t *starts = (uint32_t *)s.starts.data;
  for (uint32_t c = 0; c < chunks; c++)
    for (uint32_t r = 0; r < rows; r++) {
      starts[c * rows + r] = count;
      for (uint32_t g = 0; g < chunk_groups && c * chunk_groups + g < groups; g++)
        if (pick(0, 99) < percent) ((uint16_t *)s.indices.data)[count++] = (uint16_t)g;
    }
  starts[rows * chunks] = count;
  return s;
}

/* Appends the next pair of rows: its header, random groups, and the weights, which are random already. */
static void make_pair(const uint16_t rows[2], uint32_t groups, uint32_t percent, uint16_t *indices, spw_pair_start *at) {
  uint16_t lists[3][64], counts[3] = {0, 0, 0}, *to = indices + at->index;
  for (uint32_t g = 0; g < groups; g++) {
    uint32_t a = pick(0, 99) < percent, b = pick(0, 99) < percent;
    if (!a && !b) continue;
    uint32_t list = a && b ? 0 : a ? 1 : 2;
    lists[list][counts[list]++] = (uint16_t)g;
  }
  if (counts[0] % 2) lists[1][counts[1]++] = lists[0][--counts[0]];
  *to++ = rows[0], *to++ = rows[1];
  for (int l = 0; l < 3; l++) *to++ = counts[l];
  for (int l = 0; l < 3; l++)
    for (uint32_t i = 0; i < counts[l]; i++) *to++ = lists[l][i];
  at->index = (uint32_t)(to - indices);
  at->weight += 2u * counts[0] + counts[1] + counts[2];
}

static sparse make_pairs(uint32_t rows, uint32_t groups, uint32_t per_chunk, uint32_t percent) {
  uint32_t chunks = (groups + per_chunk - 1) / per_chunk, parts = (rows + SPW_PAIR_ROWS - 1) / SPW_PAIR_ROWS;
  size_t numbers = (size_t)rows * groups + (size_t)rows / 2 * chunks * SPW_PAIR_HEADER;
  sparse s = {make((size_t)parts * chunks * sizeof(spw_pair_start)), make(numbers * 2), bytes((size_t)rows * groups * 4)};
  spw_pair_start *starts = (spw_pair_start *)s.starts.data, at = {0, 0};
  for (uint32_t i = 0; i < parts * chunks; i++) {
    uint32_t first_row = i / chunks * SPW_PAIR_ROWS, first_group = i % chunks * per_chunk;
    uint32_t here = rows - first_row < SPW_PAIR_ROWS ? rows - first_row : SPW_PAIR_ROWS;
    uint32_t width = groups - first_group < per_chunk ? groups - first_group : per_chunk;
    starts[i] = at;
    for (uint32_t r = 0; r < here / 2; r++) {
      uint16_t pair[2] = {(uint16_t)(here / 2 - 1 - r), (uint16_t)(here / 2 + r)};
      make_pair(pair, width, percent, (uint16_t *)s.indices.data, &at);
    }
  }
  return s;
}

static void test_linear_u8(const spw_kernels *reference, const spw_kernels *k, int is_sparse) {
  uint32_t count = pick(1, 19), n = pick(1, is_sparse ? 300 : 70), depth = pick(1, 140), rows = rows_of(n);
  uint32_t groups = (depth + 3) / 4, chunk = 4 * pick(1, 40), quantized = pick(0, 1);
  uint32_t begin = pick(0, count - 1), end = pick(begin + 1, count);
  uint32_t unit = is_sparse ? SPW_PAIR_ROWS : SPW_ROW_BLOCK, units = (rows + unit - 1) / unit;
  uint32_t row_begin = pick(0, units - 1) * unit, row_end = pick(row_begin / unit + 1, units) * unit;
  size_t y_tile = quantized ? u8_tile(n) : f32_tile(n);
  block x = bytes(count * u8_tile(depth)), w = bytes((size_t)rows * groups * 4), scale = reals(rows);
  block bias = reals(rows), correction = bytes(rows * 4), scratch = make(spw_scratch_sparse());
  sparse s = make_pairs(rows, groups, chunk / 4, pick(0, 4) * 25);
  if (row_end > rows) row_end = rows;
  block expected = make(count * y_tile), got = make(count * y_tile);
  spw_linear_u8 step = {.x = tiles(x, u8_tile(depth)),
                        .weights = (int8_t *)(is_sparse ? s.weights.data : w.data),
                        .starts = (spw_pair_start *)s.starts.data,
                        .indices = (uint16_t *)s.indices.data,
                        .scale = (float *)scale.data,
                        .bias = (float *)bias.data,
                        .correction = (int32_t *)correction.data,
                        .k = depth,
                        .n = n,
                        .chunk = chunk,
                        .activation = (spw_activation)pick(0, 3),
                        .quantized = quantized,
                        .out = {0.01f + 1e5f * (float)pick(0, 1), (int32_t)pick(0, 255)}};
  for (int i = 0; i < 2; i++) {
    const spw_kernels *table = i ? k : reference;
    step.y = tiles(i ? got : expected, y_tile);
    if (is_sparse) {
      table->spmm_s8(&step, begin, end, row_begin, row_end, scratch.data);
    } else {
      table->gemm_s8(&step, begin, end, row_begin, row_end);
    }
  }
  if (!margins_hold(scratch)) failures++, fprintf(stderr, "spmm_s8 %s: wrote outside its scratch\n", k->isa);
  compare(is_sparse ? "spmm_s8" : "gemm_s8", k->isa, expected, got);
  block all[] = {x, w, scale, bias, correction, scratch, s.starts, s.indices, s.weights};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) drop(all[i]);
}

static void test_linear_f32(const spw_kernels *reference, const spw_kernels *k, int is_sparse) {
  uint32_t count = pick(1, 9), n = pick(0, 9) ? pick(1, 40) : pick(200, 600), rows = rows_of(n);
  uint32_t depth = pick(0, 9) ? pick(1, 70) : pick(1000, 2100); /* below and above what a kernel walks at a time */
  uint32_t begin = pick(0, count - 1), end = pick(begin + 1, count), chunk = pick(1, 90);
  uint32_t row_begin = pick(0, rows / 8 - 1) * 8, row_end = pick(row_begin / 8 + 1, rows / 8) * 8;
  block x = reals((size_t)count * depth * 16), w = reals((size_t)rows * depth), bias = reals(rows);
  block expected = make(count * f32_tile(n)), got = make(count * f32_tile(n)), scratch = make(spw_scratch_sparse());
  sparse s = make_sparse(rows, depth, chunk, pick(0, 4) * 25);
  spw_linear_f32 step = {.x = tiles(x, f32_tile(depth)), .weights = (float *)w.data, .bias = (float *)bias.data,
                         .starts = (uint32_t *)s.starts.data, .indices = (uint16_t *)s.indices.data,
                         .k = depth, .n = n, .chunk = chunk, .activation = (spw_activation)pick(0, 3)};
  for (int i = 0; i < 2; i++) {
    const spw_kernels *table = i ? k : reference;
    step.y = tiles(i ? got : expected, f32_tile(n));
    if (is_sparse) {
      table->spmm_f32(&step, begin, end, row_begin, row_end, scratch.data);
    } else {
      table->gemm_f32(&step, begin, end, row_begin, row_end);
    }
  }
  if (!margins_hold(scratch)) failures++, fprintf(stderr, "spmm_f32 %s: wrote outside its scratch\n", k->isa);
  compare(is_sparse ? "spmm_f32" : "gemm_f32", k->isa, expected, got);
  drop(x), drop(w), drop(bias), drop(scratch), drop(s.starts), drop(s.indices), drop(s.weights);
}

static spw_quantization random_quantization(void) {
  return (spw_quantization){0.004f + 0.01f * (float)pick(0, 3), (int32_t)pick(0, 255)};
}

static void test_attention(const spw_kernels *reference, const spw_kernels *k, int is_u8) {
  uint32_t heads = pick(1, 3), head_dim = is_u8 ? 4 * pick(1, 9) : pick(1, 20), channels = heads * head_dim;
  spw_sequence sequences[2] = {{0, pick(1, 80)}, {0, pick(1, 80)}};
  sequences[1].first_tile = (sequences[0].tokens + 15) / 16;
  uint32_t b = pick(0, 1), count = sequences[1].first_tile + (sequences[1].tokens + 15) / 16;
  uint32_t mine = (sequences[b].tokens + 15) / 16, begin = pick(0, mine - 1), end = pick(begin + 1, mine);
  bool quantized = is_u8 && pick(0, 1);
  size_t in = is_u8 ? u8_tile(channels) : f32_tile(channels), out = quantized ? u8_tile(channels) : f32_tile(channels);
  block q = is_u8 ? bytes(count * in) : reals(count * in / 4), v = is_u8 ? bytes(count * in) : reals(count * in / 4);
  block keys = is_u8 ? bytes(count * in) : reals(count * in / 4), mask = reals((size_t)count * 16);
  uint32_t longest = pick(80, 90), stride = 2 * longest - 1 + SPW_BIAS_MARGIN;
  block bias = reals((size_t)heads * stride);
  block scratch = make(is_u8 ? spw_scratch_attention_u8(80, head_dim) : spw_scratch_attention_f32(80));
  const float hidden[] = {-10000.0f, -FLT_MAX, -INFINITY, -0.7f};
  float value = hidden[pick(0, 3)];
  for (uint32_t i = 0; i < count * 16; i++) ((float *)mask.data)[i] = pick(0, 2) ? 0.0f : value;
  block expected = make(count * out), got = make(count * out);
  spw_attention step = {.q = tiles(q, in), .k = tiles(keys, in), .v = tiles(v, in), .sequences = sequences,
                        .mask = pick(0, 3) ? (float *)mask.data : NULL, .head_dim = head_dim, .scale = pick(0, 3) ? 0.3f : 3e4f,
                        .q_quant = random_quantization(), .k_quant = random_quantization(),
                        .v_quant = random_quantization(), .p_quant = {pick(0, 3) ? 1.0f / 255 : 1e-4f, (int32_t)pick(0, 9)},
                        .out = random_quantization(), .quantized = quantized,
                        .bias = !is_u8 && pick(0, 1) ? (float *)bias.data : NULL, .bias_length = longest};
  for (int i = 0; i < 2; i++) {
    const spw_kernels *table = i ? k : reference;
    step.y = tiles(i ? got : expected, out);
    (is_u8 ? table->attention_u8 : table->attention_f32)(&step, b, heads - 1, begin, end, scratch.data);
  }
  if (!margins_hold(scratch)) failures++, fprintf(stderr, "attention %s: wrote outside its scratch\n", k->isa);
  compare(is_u8 ? "attention_u8" : "attention_f32", k->isa, expected, got);
  drop(q), drop(keys), drop(v), drop(mask), drop(scratch), drop(bias);
}

static void test_layernorm(const spw_kernels *reference, const spw_kernels *k) {
  uint32_t count = pick(1, 5), channels = pick(1, 70), begin = pick(0, count - 1), end = pick(begin + 1, count);
  block x = reals((size_t)count * channels * 16), residual = reals((size_t)count * channels * 16);
  block gamma = reals(channels), beta = reals(channels);
  block y[2] = {make(count * f32_tile(channels)), make(count * f32_tile(channels))};
  block quantized[2] = {make(count * u8_tile(channels)), make(count * u8_tile(channels))};
  spw_tiles added = pick(0, 3) ? tiles(residual, f32_tile(channels)) : (spw_tiles){NULL, 0};
  for (int i = 0; i < 2; i++) {
    spw_layernorm step = {.x = tiles(x, f32_tile(channels)), .residual = added,
                          .y = tiles(y[i], f32_tile(channels)), .y_quantized = tiles(quantized[i], u8_tile(channels)),
                          .gamma = (float *)gamma.data, .beta = (float *)beta.data, .channels = channels,
                          .epsilon = 1e-5f, .out = {0.02f, 100}};
    (i ? k : reference)->layernorm(&step, begin, end);
  }
  compare("layernorm", k->isa, y[0], y[1]);
  compare("layernorm to uint8", k->isa, quantized[0], quantized[1]);
  drop(x), drop(residual), drop(gamma), drop(beta);
}

static void test_elementwise(const spw_kernels *reference, const spw_kernels *k) {
  uint32_t count = pick(1, 5), channels = pick(1, 70), begin = pick(0, count - 1), end = pick(begin + 1, count);
  block x = reals((size_t)count * channels * 16), right = reals((size_t)count * channels * 16);
  block from = bytes(count * u8_tile(channels)), q[2], d[2], a[2], s[2];
  ((float *)x.data)[0] = 1e30f, ((float *)x.data)[1] = -1e-40f, ((float *)x.data)[2] = -0.0f;
  for (int i = 0; i < 2; i++) {
    const spw_kernels *table = i ? k : reference;
    q[i] = make(count * u8_tile(channels)), a[i] = make(count * f32_tile(channels));
    d[i] = make(count * f32_tile(channels)), s[i] = make(count * f32_tile(channels));
    spw_quantize quantize = {.x = tiles(x, f32_tile(channels)), .y = tiles(q[i], u8_tile(channels)),
                             .channels = channels, .quantization = {0.02f, 7}};
    spw_quantize dequantize = {.x = tiles(from, u8_tile(channels)), .y = tiles(d[i], f32_tile(channels)),
                               .channels = channels, .quantization = {0.02f, 7}};
    spw_elementwise step = {.x = tiles(x, f32_tile(channels)), .right = tiles(right, f32_tile(channels)),
                            .y = tiles(a[i], f32_tile(channels)), .channels = channels, .activation = pick(1, 1)};
    step.activation = (spw_activation)(1 + channels % 4);
    table->quantize(&quantize, begin, end);
    table->dequantize(&dequantize, begin, end);
    table->activate(&step, begin, end);
    step.y = tiles(s[i], f32_tile(channels));
    table->add(&step, begin, end);
  }
  compare("quantize", k->isa, q[0], q[1]);
  compare("dequantize", k->isa, d[0], d[1]);
  compare("activate", k->isa, a[0], a[1]);
  compare("add", k->isa, s[0], s[1]);
  drop(x), drop(right), drop(from);
}

static void test_tokens(const spw_kernels *reference, const spw_kernels *k) {
  uint32_t count = pick(1, 5), channels = pick(1, 70), begin = pick(0, count - 1), end = pick(begin + 1, count);
  block x = reals((size_t)count * channels * 16), offset = reals(channels), bias = reals(channels);
  block q[2], scales[2], y[2];
  ((float *)x.data)[0] = 1e30f, ((float *)x.data)[1] = -1e-40f, ((float *)x.data)[2] = -0.0f;
  for (int i = 0; i < 2; i++) {
    const spw_kernels *table = i ? k : reference;
    q[i] = make(count * u8_tile(channels)), scales[i] = make(count * f32_tile(2));
    y[i] = make(count * f32_tile(channels));
    spw_quantize quantize = {.x = tiles(x, f32_tile(channels)), .y = tiles(q[i], u8_tile(channels)),
                             .scales = tiles(scales[i], f32_tile(2)), .channels = channels};
    spw_rescale rescale = {.x = tiles(x, f32_tile(channels)), .scales = tiles(scales[i], f32_tile(2)),
                           .y = tiles(y[i], f32_tile(channels)), .offset = (float *)offset.data,
                           .bias = (float *)bias.data, .channels = channels,
                           .activation = (spw_activation)(channels % 5)};
    table->quantize_tokens(&quantize, begin, end);
    table->rescale(&rescale, begin, end);
  }
  compare("quantize_tokens", k->isa, q[0], q[1]);
  compare("scales of tokens", k->isa, scales[0], scales[1]);
  compare("rescale", k->isa, y[0], y[1]);
  drop(x), drop(offset), drop(bias);
}

static void test_embed(const spw_kernels *reference, const spw_kernels *k) {
  uint32_t count = pick(1, 4), channels = pick(1, 40), rows = pick(1, 30);
  block words = reals((size_t)rows * channels), types = bytes((size_t)rows * channels), y[2];
  block index = make((size_t)count * 64), present = make((size_t)count * 16);
  for (uint32_t i = 0; i < count * 16; i++) {
    ((uint32_t *)index.data)[i] = pick(0, rows - 1);
    present.data[i] = (uint8_t)pick(0, 1);
  }
  for (int i = 0; i < 2; i++) {
    y[i] = make(count * f32_tile(channels));
    spw_embed step = {.y = tiles(y[i], f32_tile(channels)), .present = present.data, .table_count = 2,
                      .channels = channels,
                      .tables = {{(float *)words.data, NULL, 1.0f, (uint32_t *)index.data},
                                 {NULL, (int8_t *)types.data, 0.03f, (uint32_t *)index.data}}};
    (i ? k : reference)->embed(&step, 0, count);
  }
  compare("embed", k->isa, y[0], y[1]);
  drop(words), drop(types), drop(index), drop(present);
}

int main(void) {
  const spw_kernels *reference = spw_kernels_find("scalar");
  for (uint32_t i = 0; spw_isa_name(i) != NULL; i++) {
    const spw_kernels *k = spw_kernels_find(spw_isa_name(i));
    for (int round = 0; k != NULL && round < ROUNDS; round++) {
      test_linear_u8(reference, k, 0);
      test_linear_u8(reference, k, 1);
      test_linear_f32(reference, k, 0);
      test_linear_f32(reference, k, 1);
      test_attention(reference, k, 0);
      test_attention(reference, k, 1);
      test_layernorm(reference, k);
      test_elementwise(reference, k);
      test_tokens(reference, k);
      test_embed(reference, k);
    }
  }
  return failures != 0;
}
