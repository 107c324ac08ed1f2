/* Checks linear layers: every index and every instruction that their kernels will follow. */
#include "check.h"
#include "code.h"

static spw_status check_residual(check *c, kind out) {
  const spw_file_step *s = c->step;
  TRY(reads(c, s->in[1], F32, s->attributes[LINEAR_N]));
  REQUIRE(c, buffer(c, s->in[1])->per_batch == buffer(c, s->in[0])->per_batch, "mixes rows of tokens and of sequences");
  REQUIRE(c, out == F32 && s->attributes[LINEAR_ACTIVATION] == SPW_NONE, "adds a residual to no plain float32 result");
  return SPW_OK;
}

static spw_status check_linear(check *c, kind in) {
  const spw_file_step *s = c->step;
  uint32_t k = s->attributes[LINEAR_K], n = s->attributes[LINEAR_N];
  REQUIRE(c, k >= 1 && k <= SPW_MAX_CHANNELS && n >= 1 && n <= SPW_MAX_CHANNELS, "its size is invalid");
  REQUIRE(c, s->attributes[LINEAR_ACTIVATION] <= SPW_GELU_TANH, "its activation is unknown");
  TRY(reads(c, s->in[0], in, k));
  REQUIRE(c, s->out[0] < c->plan->header.buffer_count, "writes a buffer that doesn't exist");
  kind out = buffer(c, s->out[0])->is_u8 ? U8 : F32;
  REQUIRE(c, out == F32 || (in == U8 && valid_quantization(s->scalars[0], s->attributes[LINEAR_OUT_ZERO])),
          "its output's quantization is invalid");
  if (in == U8 && s->in[1] != SPW_ABSENT) TRY(check_residual(c, out));
  TRY(writes(c, s->out[0], out, n, buffer(c, s->in[0])->per_batch));
  return blob(c, BLOB_BIAS, round_up(n, SPW_ROW_BLOCK), sizeof(float));
}

spw_status spw_check_linear_f32(check *c) {
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

spw_status spw_check_linear_u8(check *c) {
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
spw_status spw_check_sparse_f32(check *c) {
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

spw_status spw_check_sparse_u8(check *c) {
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
  return finish == SPW_STORED ||
         (finish <= SPW_ADDED && c->step->attributes[LINEAR_N] % SPW_ROW_BLOCK == 0 &&
          spw_code_writes_bytes((spw_finish)finish) == (buffer(c, c->step->out[0])->is_u8 != 0) &&
          (finish == SPW_ADDED) == (c->step->in[1] != SPW_ABSENT));
}

spw_status spw_check_code_u8(check *c) {
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
