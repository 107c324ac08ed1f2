/* Checks every step of a plan before any may run: its buffers' kinds and sizes, its constants' sizes and
 * indices, that each buffer is written once and before it is read, and that no two living ones overlap. */
#include <string.h>

#include "check.h"
#include "memory.h"

static spw_status check_table(check *c, uint32_t i, uint32_t channels) {
  const uint32_t *a = c->step->attributes + EMBED_FIRST + 4 * i;
  uint32_t source = a[0], input = a[1], offset = a[2], rows = a[3];
  uint32_t item = (c->step->attributes[EMBED_S8] >> i & 1) ? 1 : 4;
  REQUIRE(c, rows >= 1 && rows <= INT32_MAX, "an embedding table has no rows or too many");
  REQUIRE(c, source <= SOURCE_COUNTED, "an embedding table's source is unknown");
  REQUIRE(c, input < c->plan->header.input_count, "an embedding table reads an input that doesn't exist");
  REQUIRE(c, source == SOURCE_INPUT || offset < rows, "an embedding table's offset is behind its end");
  if (source == SOURCE_POSITION || source == SOURCE_COUNTED) {
    uint32_t limit = rows - offset - (source == SOURCE_COUNTED);
    if (limit < c->plan->position_limit) c->plan->position_limit = limit;
  }
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

static spw_status check_quantize_tokens(check *c) {
  const spw_file_step *s = c->step;
  TRY(reads(c, s->in[0], F32, 0));
  uint32_t per_batch = buffer(c, s->in[0])->per_batch;
  TRY(writes(c, s->out[0], U8, buffer(c, s->in[0])->channels, per_batch));
  return writes(c, s->out[1], F32, 2, per_batch);
}

static spw_status check_rescale(check *c) {
  const spw_file_step *s = c->step;
  TRY(reads(c, s->in[0], F32, 0));
  TRY(reads(c, s->in[1], F32, 2));
  uint32_t channels = buffer(c, s->in[0])->channels, per_batch = buffer(c, s->in[0])->per_batch;
  REQUIRE(c, buffer(c, s->in[1])->per_batch == per_batch, "mixes rows of tokens and of sequences");
  REQUIRE(c, s->attributes[0] <= SPW_GELU_TANH, "its activation is unknown");
  TRY(blob(c, 0, channels, sizeof(float)));
  TRY(blob(c, 1, channels, sizeof(float)));
  return writes(c, s->out[0], F32, channels, per_batch);
}

static spw_status check_attention(check *c, kind type) {
  const spw_file_step *s = c->step;
  uint32_t heads = s->attributes[ATTENTION_HEADS], head_dim = s->attributes[ATTENTION_HEAD_DIM], channels;
  REQUIRE(c, heads >= 1 && heads <= SPW_MAX_HEADS && head_dim >= 1 && head_dim <= SPW_MAX_PRODUCTS / 4 &&
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

/* No sequence is longer than the table, so no kernel reads beyond it. */
static spw_status check_bias(check *c) {
  uint32_t length = c->step->attributes[ATTENTION_BIAS];
  if (length == 0) return SPW_OK;
  REQUIRE(c, length <= SPW_MAX_CHANNELS, "its bias of positions is too long");
  if (length < c->plan->position_limit) c->plan->position_limit = length;
  return blob(c, 0, (uint64_t)c->step->attributes[ATTENTION_HEADS] * (2 * length - 1 + SPW_BIAS_MARGIN), sizeof(float));
}

static spw_status check_attention_f32(check *c) {
  TRY(check_attention(c, F32));
  TRY(check_bias(c));
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
  REQUIRE(c, s->attributes[ATTENTION_BIAS] == 0, "uint8 attention can't have a bias of positions");
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
  REQUIRE(c, s->attributes[0] <= SPW_GELU_TANH, "its activation is unknown");
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
    [SPW_LINEAR_F32] = spw_check_linear_f32,
    [SPW_LINEAR_U8] = spw_check_linear_u8,
    [SPW_SPARSE_U8] = spw_check_sparse_u8,
    [SPW_SPARSE_F32] = spw_check_sparse_f32,
    [SPW_CODE_U8] = spw_check_code_u8,
    [SPW_ATTENTION_F32] = check_attention_f32,
    [SPW_ATTENTION_U8] = check_attention_u8,
    [SPW_ADD] = check_add,
    [SPW_ACTIVATE] = check_activate,
    [SPW_SELECT] = check_select,
    [SPW_OUTPUT] = check_output,
    [SPW_DEQUANTIZE] = check_dequantize,
    [SPW_QUANTIZE_TOKENS] = check_quantize_tokens,
    [SPW_RESCALE] = check_rescale,
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
