/* Checks every step of a plan before any may run: its buffers' kinds and sizes, its constants' sizes and
 * indices, that each buffer is written once and before it is read, and that no two living ones overlap. */
#include "steps.h"

#include <string.h>

#include "code.h"
#include "memory.h"
#include "plan.h"
#include "status.h"

typedef struct check {
  spw_plan *plan;
  const spw_file_step *step;
  uint32_t index;
  uint32_t *written, *read; /* per buffer: the step that writes it, the last that reads it */
  spw_error *error;
} check;

typedef enum kind { F32 = 0, U8 = 1 } kind;

#define BAD(c, ...) bad((c), __VA_ARGS__)
#define REQUIRE(c, condition, ...) \
  do {                             \
    if (!(condition)) return bad((c), __VA_ARGS__); \
  } while (0)
#define TRY(expression)                      \
  do {                                       \
    spw_status status_ = (expression);       \
    if (status_ != SPW_OK) return status_;   \
  } while (0)

static spw_status bad(const check *c, const char *what) {
  return spw_fail(c->error, SPW_INVALID_PLAN, "step %u (%.200s): %s", c->index,
                  spw_string(c->plan, c->step->name), what);
}

static const spw_file_buffer *buffer(const check *c, uint32_t id) { return &c->plan->buffers[id]; }

static spw_status reads(check *c, uint32_t id, kind type, uint32_t channels) {
  REQUIRE(c, id < c->plan->header.buffer_count, "reads a buffer that doesn't exist");
  REQUIRE(c, c->written[id] != SPW_ABSENT, "reads a buffer before it is written");
  REQUIRE(c, buffer(c, id)->is_u8 == (uint32_t)type, "reads a buffer of the wrong type");
  REQUIRE(c, channels == 0 || buffer(c, id)->channels == channels, "reads a buffer of the wrong width");
  c->read[id] = c->index;
  return SPW_OK;
}

static spw_status writes(check *c, uint32_t id, kind type, uint32_t channels, uint32_t per_batch) {
  REQUIRE(c, id < c->plan->header.buffer_count, "writes a buffer that doesn't exist");
  REQUIRE(c, c->written[id] == SPW_ABSENT, "writes a buffer that is written already");
  REQUIRE(c, buffer(c, id)->is_u8 == (uint32_t)type, "writes a buffer of the wrong type");
  REQUIRE(c, buffer(c, id)->channels == channels, "writes a buffer of the wrong width");
  REQUIRE(c, buffer(c, id)->per_batch == per_batch, "mixes rows of tokens and of sequences");
  c->written[id] = c->read[id] = c->index;
  return SPW_OK;
}

static spw_status blob(const check *c, uint32_t index, uint64_t count, uint64_t item) {
  const spw_file_blob *b = &c->step->blobs[index];
  uint64_t bytes, end;
  REQUIRE(c, !__builtin_mul_overflow(count, item, &bytes) && b->size == bytes, "a constant has the wrong size");
  REQUIRE(c, b->offset % 64 == 0 && !__builtin_add_overflow(b->offset, b->size, &end) &&
                 end <= c->plan->header.constants_size,
          "a constant lies outside the file");
  return SPW_OK;
}

/* Kernels multiply by the reciprocal of a scale: it must be a finite number too. */
static bool valid_quantization(float scale, uint32_t zero_point) {
  return scale >= 1.2e-38f && scale <= 3.0e38f && zero_point <= 255;
}

static uint64_t round_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

static uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }

static uint32_t smaller(uint32_t a, uint32_t b) { return a < b ? a : b; }

static uint32_t tokens_limit(uint32_t rows, uint32_t offset) { return offset < rows ? rows - offset : 0; }

static spw_status check_table(check *c, uint32_t i, uint32_t channels) {
  const uint32_t *a = c->step->attributes + EMBED_FIRST + 4 * i;
  uint32_t source = a[0], input = a[1], offset = a[2], rows = a[3];
  uint32_t item = (c->step->attributes[EMBED_S8] >> i & 1) ? 1 : 4;
  REQUIRE(c, rows >= 1 && rows <= INT32_MAX, "an embedding table has no rows or too many");
  REQUIRE(c, source <= SOURCE_CONSTANT, "an embedding table's source is unknown");
  REQUIRE(c, source != SOURCE_INPUT || input < c->plan->header.input_count,
          "an embedding table reads an input that doesn't exist");
  REQUIRE(c, source == SOURCE_INPUT || offset < rows, "an embedding table's offset is behind its end");
  if (source == SOURCE_POSITION && tokens_limit(rows, offset) < c->plan->position_limit)
    c->plan->position_limit = tokens_limit(rows, offset);
  return blob(c, i, (uint64_t)rows * channels, item);
}

static spw_status check_embed(check *c) {
  uint32_t tables = c->step->attributes[EMBED_TABLES], out = c->step->out[0];
  REQUIRE(c, tables >= 1 && tables <= SPW_TABLES, "adds no or too many embedding tables");
  REQUIRE(c, out < c->plan->header.buffer_count, "writes a buffer that doesn't exist");
  for (uint32_t i = 0; i < tables; i++) TRY(check_table(c, i, buffer(c, out)->channels));
  return writes(c, out, F32, buffer(c, out)->channels, 0);
}

static spw_status check_layernorm(check *c) {
  const spw_file_step *s = c->step;
  TRY(reads(c, s->in[0], F32, 0));
  uint32_t channels = buffer(c, s->in[0])->channels, per_batch = buffer(c, s->in[0])->per_batch;
  if (s->in[1] != SPW_ABSENT) {
    TRY(reads(c, s->in[1], F32, channels));
    REQUIRE(c, buffer(c, s->in[1])->per_batch == per_batch, "mixes rows of tokens and of sequences");
  }
  REQUIRE(c, s->out[0] != SPW_ABSENT || s->out[1] != SPW_ABSENT, "has no output");
  if (s->out[0] != SPW_ABSENT) TRY(writes(c, s->out[0], F32, channels, per_batch));
  if (s->out[1] != SPW_ABSENT) {
    REQUIRE(c, valid_quantization(s->scalars[1], s->attributes[0]), "its quantization is invalid");
    TRY(writes(c, s->out[1], U8, channels, per_batch));
  }
  TRY(blob(c, 0, channels, sizeof(float)));
  return blob(c, 1, channels, sizeof(float));
}

static spw_status check_conversion(check *c, kind in, kind out) {
  const spw_file_step *s = c->step;
  TRY(reads(c, s->in[0], in, 0));
  REQUIRE(c, valid_quantization(s->scalars[0], s->attributes[0]), "its quantization is invalid");
  return writes(c, s->out[0], out, buffer(c, s->in[0])->channels, buffer(c, s->in[0])->per_batch);
}

static spw_status check_quantize(check *c) { return check_conversion(c, F32, U8); }

static spw_status check_dequantize(check *c) { return check_conversion(c, U8, F32); }

static spw_status check_linear(check *c, kind in) {
  const spw_file_step *s = c->step;
  uint32_t k = s->attributes[LINEAR_K], n = s->attributes[LINEAR_N];
  REQUIRE(c, k >= 1 && k <= SPW_MAX_CHANNELS && n >= 1 && n <= SPW_MAX_CHANNELS, "its size is invalid");
  REQUIRE(c, s->attributes[LINEAR_ACTIVATION] <= SPW_TANH, "its activation is unknown");
  TRY(reads(c, s->in[0], in, k));
  REQUIRE(c, s->out[0] < c->plan->header.buffer_count, "writes a buffer that doesn't exist");
  kind out = buffer(c, s->out[0])->is_u8 ? U8 : F32;
  REQUIRE(c, out == F32 || (in == U8 && valid_quantization(s->scalars[0], s->attributes[LINEAR_OUT_ZERO])),
          "its output's quantization is invalid");
  TRY(writes(c, s->out[0], out, n, buffer(c, s->in[0])->per_batch));
  return blob(c, BLOB_BIAS, round_up(n, SPW_ROW_BLOCK), sizeof(float));
}

static spw_status check_linear_f32(check *c) {
  TRY(check_linear(c, F32));
  uint64_t rows = round_up(c->step->attributes[LINEAR_N], SPW_ROW_BLOCK);
  return blob(c, BLOB_WEIGHTS, rows * c->step->attributes[LINEAR_K], sizeof(float));
}

static spw_status check_scaled_linear(check *c) {
  TRY(check_linear(c, U8));
  REQUIRE(c, c->step->attributes[LINEAR_K] <= SPW_MAX_PRODUCTS, "its int32 sums could overflow");
  return blob(c, BLOB_SCALE, round_up(c->step->attributes[LINEAR_N], SPW_ROW_BLOCK), sizeof(float));
}

static spw_status check_integer_linear(check *c) {
  TRY(check_scaled_linear(c));
  return blob(c, BLOB_CORRECTION, round_up(c->step->attributes[LINEAR_N], SPW_ROW_BLOCK), sizeof(int32_t));
}

static spw_status check_linear_u8(check *c) {
  TRY(check_integer_linear(c));
  uint64_t rows = round_up(c->step->attributes[LINEAR_N], SPW_ROW_BLOCK);
  return blob(c, BLOB_WEIGHTS, rows * round_up(c->step->attributes[LINEAR_K], 4), 1);
}

static spw_status check_chunk(check *c, uint32_t width) {
  uint32_t chunk = c->step->attributes[LINEAR_CHUNK];
  REQUIRE(c, chunk >= width && chunk % width == 0 && chunk <= 65536, "its chunk size is invalid");
  return SPW_OK;
}

/* Every start follows the one before, and every index lies in its own chunk of the input. */
static spw_status check_sparse_f32(check *c) {
  TRY(check_linear(c, F32));
  TRY(check_chunk(c, 1));
  uint64_t rows = round_up(c->step->attributes[LINEAR_N], SPW_ROW_BLOCK);
  uint32_t columns = c->step->attributes[LINEAR_K], per_chunk = c->step->attributes[LINEAR_CHUNK];
  uint64_t chunks = round_up(columns, per_chunk) / per_chunk;
  uint64_t count = c->step->blobs[BLOB_INDICES].size / sizeof(uint16_t);
  REQUIRE(c, count <= rows * columns, "it has more values than its weight");
  TRY(blob(c, BLOB_STARTS, rows * chunks + 1, sizeof(uint32_t)));
  TRY(blob(c, BLOB_INDICES, count, sizeof(uint16_t)));
  TRY(blob(c, BLOB_WEIGHTS, count, sizeof(float)));
  const uint32_t *starts = spw_blob(c->plan, c->step, BLOB_STARTS);
  const uint16_t *indices = spw_blob(c->plan, c->step, BLOB_INDICES);
  REQUIRE(c, starts[0] == 0 && starts[rows * chunks] == count, "its values don't fill its rows");
  for (uint64_t i = 0; i < rows * chunks; i++)
    REQUIRE(c, starts[i] <= starts[i + 1], "a row of its values ends before it starts");
  for (uint64_t i = 0; i < chunks; i++) {
    uint64_t left = columns - i * per_chunk, limit = left < per_chunk ? left : per_chunk;
    for (uint64_t b = starts[i * rows]; b < starts[(i + 1) * rows]; b++)
      REQUIRE(c, indices[b] < limit, "a value's index lies outside its input");
  }
  c->plan->has_sparse = true;
  return SPW_OK;
}

/* What is left of the constants of a sparse integer weight. */
typedef struct pairs {
  const uint16_t *indices;
  uint64_t numbers, blocks;
} pairs;

/* A pair's rows lie in its part and are in no pair before, its groups in its chunk. `paired` has a bit for each row. */
static spw_status check_pair(check *c, pairs *left, uint32_t rows, uint32_t groups, uint64_t paired[2]) {
  REQUIRE(c, left->numbers >= SPW_PAIR_HEADER, "its pairs of rows end too early");
  const uint16_t *header = left->indices;
  for (int i = 0; i < 2; i++) {
    REQUIRE(c, header[i] < rows && !(paired[header[i] / 64] >> header[i] % 64 & 1), "a pair's rows are invalid");
    paired[header[i] / 64] |= 1ull << header[i] % 64;
  }
  uint32_t shared = header[2], count = shared + header[3] + header[4];
  REQUIRE(c, shared % 2 == 0, "a pair shares an odd number of blocks");
  REQUIRE(c, left->numbers - SPW_PAIR_HEADER >= count && left->blocks >= (uint64_t)count + shared,
          "its pairs have more blocks than its weight");
  for (uint32_t i = 0; i < count; i++)
    REQUIRE(c, header[SPW_PAIR_HEADER + i] < groups, "a block's index lies outside its input");
  *left = (pairs){header + SPW_PAIR_HEADER + count, left->numbers - SPW_PAIR_HEADER - count,
                  left->blocks - count - shared};
  return SPW_OK;
}

static spw_status check_sparse_u8(check *c) {
  TRY(check_integer_linear(c));
  TRY(check_chunk(c, 4));
  uint32_t rows = (uint32_t)round_up(c->step->attributes[LINEAR_N], SPW_ROW_BLOCK);
  uint32_t groups = (uint32_t)round_up(c->step->attributes[LINEAR_K], 4) / 4;
  uint32_t per_chunk = c->step->attributes[LINEAR_CHUNK] / 4;
  uint32_t chunks = (groups + per_chunk - 1) / per_chunk, parts = (rows + SPW_PAIR_ROWS - 1) / SPW_PAIR_ROWS;
  uint64_t numbers = c->step->blobs[BLOB_INDICES].size / sizeof(uint16_t), blocks = c->step->blobs[BLOB_WEIGHTS].size / 4;
  REQUIRE(c, blocks <= (uint64_t)rows * groups, "it has more blocks than its weight");
  TRY(blob(c, BLOB_STARTS, (uint64_t)parts * chunks, sizeof(spw_pair_start)));
  TRY(blob(c, BLOB_INDICES, numbers, sizeof(uint16_t)));
  TRY(blob(c, BLOB_WEIGHTS, blocks, 4));
  const spw_pair_start *starts = spw_blob(c->plan, c->step, BLOB_STARTS);
  pairs left = {spw_blob(c->plan, c->step, BLOB_INDICES), numbers, blocks};
  for (uint32_t i = 0; i < parts * chunks; i++) {
    uint32_t first_row = i / chunks * SPW_PAIR_ROWS, first_group = i % chunks * per_chunk;
    uint32_t part_rows = smaller(rows - first_row, SPW_PAIR_ROWS), limit = smaller(groups - first_group, per_chunk);
    uint64_t paired[2] = {0, 0};
    REQUIRE(c, starts[i].index == numbers - left.numbers && starts[i].weight == blocks - left.blocks,
            "a part of its pairs starts elsewhere than the one before ends");
    for (uint32_t pair = 0; pair < part_rows / 2; pair++) TRY(check_pair(c, &left, part_rows, limit, paired));
  }
  REQUIRE(c, left.numbers == 0 && left.blocks == 0, "its blocks don't fill its rows");
  c->plan->has_sparse = true;
  return SPW_OK;
}

static bool valid_finish(const check *c, uint32_t finish) {
  bool bytes = finish == SPW_BYTES || finish == SPW_GELU_BYTES, whole = c->step->attributes[LINEAR_N] % SPW_ROW_BLOCK == 0;
  return finish == SPW_STORED ||
         (finish <= SPW_GELU_BYTES && whole && bytes == (buffer(c, c->step->out[0])->is_u8 != 0));
}

static spw_status check_code_u8(check *c) {
  TRY(check_scaled_linear(c));
  REQUIRE(c, valid_finish(c, c->step->attributes[LINEAR_FINISH]), "what its code writes doesn't fit its output");
  spw_code_shape shape = {.finish = (spw_finish)c->step->attributes[LINEAR_FINISH],
                          .rows = (uint32_t)round_up(c->step->attributes[LINEAR_N], SPW_ROW_BLOCK),
                          .groups = (uint32_t)round_up(c->step->attributes[LINEAR_K], 4) / 4,
                          .size = c->step->blobs[BLOB_WEIGHTS].size};
  uint32_t most = spw_code_rows(shape.finish), count = (shape.rows + most - 1) / most;
  TRY(blob(c, BLOB_STARTS, count, sizeof(spw_code_part)));
  TRY(blob(c, BLOB_WEIGHTS, shape.size, 1));
  REQUIRE(c, spw_code_is_valid(spw_blob(c->plan, c->step, BLOB_WEIGHTS), spw_blob(c->plan, c->step, BLOB_STARTS), shape),
          "its code isn't what the compiler writes");
  c->plan->has_code = true;
  return SPW_OK;
}

static spw_status check_attention(check *c, kind type) {
  const spw_file_step *s = c->step;
  uint32_t heads = s->attributes[ATTENTION_HEADS], head_dim = s->attributes[ATTENTION_HEAD_DIM], channels;
  REQUIRE(c, heads >= 1 && head_dim >= 1 && head_dim <= SPW_MAX_PRODUCTS / 4 &&
                 !__builtin_mul_overflow(heads, head_dim, &channels),
          "its heads are invalid");
  for (uint32_t i = 0; i < 3; i++) {
    TRY(reads(c, s->in[i], type, channels));
    REQUIRE(c, buffer(c, s->in[i])->per_batch == 0, "attends to rows that are no tokens");
  }
  uint32_t mask = s->attributes[ATTENTION_MASK];
  REQUIRE(c, mask == SPW_ABSENT || mask < c->plan->header.input_count, "its mask is no input");
  REQUIRE(c, s->out[0] < c->plan->header.buffer_count, "writes a buffer that doesn't exist");
  return writes(c, s->out[0], buffer(c, s->out[0])->is_u8 ? U8 : F32, channels, 0);
}

static spw_status check_attention_f32(check *c) {
  TRY(check_attention(c, F32));
  REQUIRE(c, !buffer(c, c->step->out[0])->is_u8, "float32 attention can't write uint8");
  c->plan->max_f32_attention = 1;
  return SPW_OK;
}

static spw_status check_attention_u8(check *c) {
  TRY(check_attention(c, U8));
  const spw_file_step *s = c->step;
  uint32_t quantizations = buffer(c, s->out[0])->is_u8 ? 5 : 4;
  for (uint32_t i = 0; i < quantizations; i++)
    REQUIRE(c, valid_quantization(s->scalars[2 + i], s->attributes[ATTENTION_ZERO + i]),
            "a quantization of it is invalid");
  REQUIRE(c, s->attributes[ATTENTION_HEAD_DIM] % 4 == 0, "uint8 attention needs a head_dim that 4 divides");
  c->plan->max_u8_head = larger(c->plan->max_u8_head, s->attributes[ATTENTION_HEAD_DIM]);
  return SPW_OK;
}

static spw_status check_add(check *c) {
  const spw_file_step *s = c->step;
  TRY(reads(c, s->in[0], F32, 0));
  uint32_t channels = buffer(c, s->in[0])->channels, per_batch = buffer(c, s->in[0])->per_batch;
  TRY(reads(c, s->in[1], F32, channels));
  REQUIRE(c, buffer(c, s->in[1])->per_batch == per_batch, "mixes rows of tokens and of sequences");
  return writes(c, s->out[0], F32, channels, per_batch);
}

static spw_status check_activate(check *c) {
  const spw_file_step *s = c->step;
  TRY(reads(c, s->in[0], F32, 0));
  REQUIRE(c, s->attributes[0] <= SPW_TANH, "its activation is unknown");
  return writes(c, s->out[0], F32, buffer(c, s->in[0])->channels, buffer(c, s->in[0])->per_batch);
}

static spw_status check_select(check *c) {
  const spw_file_step *s = c->step;
  TRY(reads(c, s->in[0], F32, 0));
  REQUIRE(c, buffer(c, s->in[0])->per_batch == 0, "selects from rows that are no tokens");
  return writes(c, s->out[0], F32, buffer(c, s->in[0])->channels, 1);
}

static spw_status check_output(check *c) {
  const spw_file_step *s = c->step;
  TRY(reads(c, s->in[0], F32, 0));
  const spw_file_buffer *in = buffer(c, s->in[0]);
  uint32_t column = s->attributes[0];
  REQUIRE(c, column == SPW_ABSENT || column < in->channels, "gives out a column that doesn't exist");
  spw_output *output = &c->plan->outputs[c->plan->output_count++];
  output->step = s;
  output->info = (spw_output_info){spw_string(c->plan, s->name), column == SPW_ABSENT ? in->channels : 0,
                                   !in->per_batch};
  return SPW_OK;
}

static spw_status (*const checks[SPW_OP_COUNT])(check *) = {
    [SPW_EMBED] = check_embed,
    [SPW_LAYERNORM] = check_layernorm,
    [SPW_QUANTIZE] = check_quantize,
    [SPW_LINEAR_F32] = check_linear_f32,
    [SPW_LINEAR_U8] = check_linear_u8,
    [SPW_SPARSE_U8] = check_sparse_u8,
    [SPW_SPARSE_F32] = check_sparse_f32,
    [SPW_CODE_U8] = check_code_u8,
    [SPW_ATTENTION_F32] = check_attention_f32,
    [SPW_ATTENTION_U8] = check_attention_u8,
    [SPW_ADD] = check_add,
    [SPW_ACTIVATE] = check_activate,
    [SPW_SELECT] = check_select,
    [SPW_OUTPUT] = check_output,
    [SPW_DEQUANTIZE] = check_dequantize,
};

static bool ranges_meet(uint64_t a, uint64_t a_end, uint64_t b, uint64_t b_end) { return a < b_end && b < a_end; }

/* Two buffers that live at the same step may not share a byte. */
static spw_status check_overlaps(const check *c) {
  uint32_t count = c->plan->header.buffer_count;
  for (uint32_t i = 0; i < count; i++) {
    const spw_file_buffer *a = buffer(c, i);
    for (uint32_t j = 0; j < i && c->written[i] != SPW_ABSENT; j++) {
      const spw_file_buffer *b = buffer(c, j);
      if (c->written[j] == SPW_ABSENT || c->written[j] > c->read[i] || c->written[i] > c->read[j]) continue;
      if (ranges_meet(a->offset, a->offset + spw_buffer_tile_bytes(a), b->offset,
                      b->offset + spw_buffer_tile_bytes(b)))
        return spw_fail(c->error, SPW_INVALID_PLAN, "buffers %u and %u share memory while both are used", j, i);
    }
  }
  return SPW_OK;
}

static spw_status check_all(check *c) {
  const spw_file_header *h = &c->plan->header;
  memset(c->written, 0xff, h->buffer_count * sizeof *c->written);
  for (c->index = 0; c->index < h->step_count; c->index++) {
    c->step = &c->plan->steps[c->index];
    REQUIRE(c, c->step->op < SPW_OP_COUNT, "its operation is unknown");
    TRY(checks[c->step->op](c));
  }
  return check_overlaps(c);
}

spw_status spw_steps_check(spw_plan *plan, spw_error *error) {
  uint32_t buffers = plan->header.buffer_count;
  check c = {.plan = plan, .error = error};
  plan->position_limit = UINT32_MAX;
  plan->outputs = spw_allocate(plan->header.step_count * sizeof *plan->outputs);
  c.written = spw_allocate(buffers * sizeof *c.written);
  c.read = spw_allocate(buffers * sizeof *c.read);
  spw_status status = SPW_OUT_OF_MEMORY;
  if (plan->outputs && c.written && c.read) {
    status = check_all(&c);
  } else {
    spw_fail(error, status, "no memory to check the plan");
  }
  spw_release(c.written);
  spw_release(c.read);
  if (status == SPW_OK && (plan->header.input_count == 0 || plan->output_count == 0))
    return spw_fail(error, SPW_INVALID_PLAN, "the plan has no input or no output");
  return status;
}
