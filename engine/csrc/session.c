/* Sessions: input checks and memory, all before the first step runs. */
#include "session.h"

#include <string.h>

#include "memory.h"
#include "status.h"
#include "steps.h"

enum {
  MAX_TOKENS = 1 << 26,
  GROUP_TILES = 16 /* of a thread; at 1024 channels a float32 activation of them fills a second-level cache of 1 MiB */
};

static size_t padded(size_t size_bytes) { return (size_bytes + 63) / 64 * 64; }

size_t spw_scratch_sparse(void) { return (size_t)SPW_SPARSE_ROWS * SPW_SPARSE_TILES * 64; }
size_t spw_scratch_attention_f32(uint32_t tokens) {
  return ((size_t)tokens + SPW_LANES) * SPW_DENSE_TILES * 64;
}
size_t spw_scratch_attention_u8(uint32_t tokens, uint32_t head_dim) {
  size_t keys = (size_t)tokens + SPW_LANES, channels = (size_t)head_dim + SPW_ROW_BLOCK;
  return 2 * keys * channels + 4 * (2 * keys + channels) + keys * (64 + 8 + 16) + 8 * 64;
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }
static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

static size_t scratch_needed(const spw_plan *plan, uint32_t tokens) {
  size_t need = 64;
  if (plan->has_code) need = larger(need, sizeof(spw_code_frame));
  if (plan->has_sparse) need = larger(need, spw_scratch_sparse());
  if (plan->max_f32_attention) need = larger(need, spw_scratch_attention_f32(tokens));
  if (plan->max_u8_head) need = larger(need, spw_scratch_attention_u8(tokens, plan->max_u8_head));
  return padded(need);
}

static spw_status grow(uint8_t **block, size_t *have, size_t need, spw_error *error) {
  if (*have >= need) return SPW_OK;
  spw_release(*block);
  *have = 0;
  *block = spw_allocate(need);
  if (*block == NULL)
    return spw_fail(error, SPW_OUT_OF_MEMORY, "no memory for %zu bytes of activations: use a smaller batch",
                    need);
  *have = need;
  return SPW_OK;
}

static void *take(uint8_t **at, size_t size_bytes) {
  void *part = *at;
  *at += padded(size_bytes);
  return part;
}

/* Lays out the block of small per-token arrays; with a NULL base it only measures. */
static size_t lay_out(spw_session *s, uint8_t *base, uint32_t tiles, uint32_t batch, size_t values) {
  uint8_t *at = base;
  size_t tokens = (size_t)tiles * SPW_LANES, inputs = s->plan->header.input_count, used = 0;
  const size_t sizes[] = {inputs * sizeof *s->inputs,
                          SPW_TABLES * tokens * sizeof *s->rows,
                          tokens,
                          tokens * sizeof *s->mask,
                          batch * sizeof *s->sequences,
                          (batch + (size_t)1) * sizeof *s->first_item,
                          batch * sizeof *s->lengths};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) used += padded(sizes[i]);
  used += inputs * padded(values * sizeof(int64_t));
  if (base == NULL) return used;
  s->inputs = take(&at, sizes[0]);
  s->rows = take(&at, sizes[1]);
  s->present = take(&at, sizes[2]);
  s->mask = take(&at, sizes[3]);
  s->sequences = take(&at, sizes[4]);
  s->first_item = take(&at, sizes[5]);
  s->lengths = take(&at, sizes[6]);
  for (size_t i = 0; i < inputs; i++) s->inputs[i] = take(&at, values * sizeof(int64_t));
  return used;
}

static spw_status check_shape(const spw_session *s, const spw_request *r, spw_error *error) {
  const spw_plan *plan = s->plan;
  if (r->batch == 0 || r->sequence == 0)
    return spw_fail(error, SPW_INVALID_INPUT, "batch %u, sequence %u: both must be at least 1", r->batch,
                    r->sequence);
  if (r->sequence > SPW_MAX_PRODUCTS || (uint64_t)r->batch * (r->sequence + SPW_LANES) > MAX_TOKENS)
    return spw_fail(error, SPW_INVALID_INPUT, "batch %u of sequence %u is too large", r->batch, r->sequence);
  for (uint32_t i = 0; i < plan->header.input_count; i++)
    if (r->inputs[i].data == NULL || (r->inputs[i].type != SPW_INT32 && r->inputs[i].type != SPW_INT64))
      return spw_fail(error, SPW_INVALID_ARGUMENT, "input %s has no data or an unknown type",
                      spw_plan_input_name(plan, i));
  for (uint32_t i = 0; i < plan->output_count; i++)
    if (r->outputs[i] == NULL)
      return spw_fail(error, SPW_INVALID_ARGUMENT, "output %s has no memory", plan->outputs[i].info.name);
  return SPW_OK;
}

static uint32_t tiles_for(uint32_t tokens) { return (tokens + SPW_LANES - 1) / SPW_LANES; }

static spw_status prepare_memory(spw_session *s, const spw_request *r, spw_error *error) {
  uint32_t threads = spw_pool_threads(s->pool), one = tiles_for(r->sequence);
  size_t values = (size_t)r->batch * r->sequence, arena;
  uint32_t tiles = (uint32_t)smaller((size_t)one * r->batch, larger(one, (size_t)GROUP_TILES * threads));
  if (__builtin_mul_overflow(spw_tile_stride(s->plan), tiles, &arena))
    return spw_fail(error, SPW_INVALID_INPUT, "batch %u of sequence %u is too large", r->batch, r->sequence);
  s->scratch_stride = scratch_needed(s->plan, r->sequence);
  spw_status status = grow(&s->arena, &s->arena_size, arena, error);
  if (status == SPW_OK) status = grow(&s->scratch, &s->scratch_size, s->scratch_stride * threads, error);
  if (status == SPW_OK)
    status = grow(&s->tokens, &s->tokens_size, lay_out(s, NULL, tiles, r->batch, values), error);
  if (status != SPW_OK) return status;
  lay_out(s, s->tokens, tiles, r->batch, values);
  s->all = r->batch;
  s->sequence = r->sequence;
  s->most_tiles = tiles;
  s->first = s->batch = 0;
  s->outputs = r->outputs;
  return SPW_OK;
}

static spw_status copy_lengths(spw_session *s, const spw_request *r, spw_error *error) {
  for (uint32_t b = 0; b < s->all; b++) {
    int32_t length = r->lengths ? r->lengths[b] : (int32_t)r->sequence;
    if (length < 1 || (uint32_t)length > r->sequence)
      return spw_fail(error, SPW_INVALID_INPUT, "the length of sequence %u is %d: 1 to %u are possible", b, length,
                      r->sequence);
    if ((uint32_t)length > s->plan->position_limit)
      return spw_fail(error, SPW_INVALID_INPUT, "a sequence of %d tokens: this model's positions end at %u", length,
                      s->plan->position_limit);
    s->lengths[b] = (uint32_t)length;
  }
  return SPW_OK;
}

bool spw_session_next(spw_session *s) {
  s->first += s->batch;
  s->batch = s->tiles = 0;
  for (uint32_t b = s->first; b < s->all && s->tiles + tiles_for(s->lengths[b]) <= s->most_tiles; b++) {
    s->sequences[s->batch++] = (spw_sequence){s->tiles, s->lengths[b]};
    memset(s->present + (size_t)s->tiles * SPW_LANES, 0, (size_t)tiles_for(s->lengths[b]) * SPW_LANES);
    memset(s->present + (size_t)s->tiles * SPW_LANES, 1, s->lengths[b]);
    s->tiles += tiles_for(s->lengths[b]);
  }
  s->batch_tiles = tiles_for(s->batch);
  return s->batch > 0;
}

static void copy_inputs(spw_session *s, const spw_request *r) {
  size_t values = (size_t)r->batch * r->sequence;
  for (uint32_t i = 0; i < s->plan->header.input_count; i++) {
    if (r->inputs[i].type == SPW_INT64) {
      memcpy(s->inputs[i], r->inputs[i].data, values * sizeof(int64_t));
      continue;
    }
    for (size_t v = 0; v < values; v++) {
      int32_t value;
      memcpy(&value, (const uint8_t *)r->inputs[i].data + v * sizeof value, sizeof value);
      s->inputs[i][v] = value;
    }
  }
}

static spw_status check_rows(const spw_session *s, uint32_t input, uint32_t rows, spw_error *error) {
  for (uint32_t b = 0; b < s->all; b++)
    for (uint32_t t = 0; t < s->lengths[b]; t++) {
      int64_t value = s->inputs[input][(size_t)b * s->sequence + t];
      if (value < 0 || value >= rows)
        return spw_fail(error, SPW_INVALID_INPUT,
                        "input %s: %lld at [%u, %u] is outside its table, which has rows 0 to %u",
                        spw_plan_input_name(s->plan, input), (long long)value, b, t, rows - 1);
    }
  return SPW_OK;
}

static spw_status check_ids(const spw_session *s, spw_error *error) {
  for (uint32_t i = 0; i < s->plan->header.step_count; i++) {
    const spw_file_step *step = &s->plan->steps[i];
    for (uint32_t t = 0; step->op == SPW_EMBED && t < step->attributes[EMBED_TABLES]; t++) {
      const uint32_t *table = step->attributes + EMBED_FIRST + 4 * t;
      if (table[0] != SOURCE_INPUT) continue;
      spw_status status = check_rows(s, table[1], table[3], error);
      if (status != SPW_OK) return status;
    }
  }
  return SPW_OK;
}

/* The inputs are copied first and checked in the copy: the caller's memory may change meanwhile. */
spw_status spw_session_prepare(spw_session *s, const spw_request *r, spw_error *error) {
  spw_status status = check_shape(s, r, error);
  if (status == SPW_OK) status = prepare_memory(s, r, error);
  if (status == SPW_OK) status = copy_lengths(s, r, error);
  if (status != SPW_OK) return status;
  copy_inputs(s, r);
  return check_ids(s, error);
}

spw_status spw_session_create(spw_plan *plan, spw_pool *pool, spw_session **session, spw_error *error) {
  if (plan == NULL || pool == NULL || session == NULL)
    return spw_fail(error, SPW_INVALID_ARGUMENT, "plan, pool or session is NULL");
  if (plan->has_code && spw_pool_kernels(pool)->code_s8 == NULL)
    return spw_fail(error, SPW_UNSUPPORTED_ISA,
                    "the plan holds machine code for avx512vnni, and %s is to run it: compile the model for that",
                    spw_pool_isa(pool));
  *session = spw_allocate(sizeof **session);
  if (*session == NULL) return spw_fail(error, SPW_OUT_OF_MEMORY, "no memory for a session");
  spw_plan_retain(plan);
  spw_pool_retain(pool);
  (*session)->plan = plan;
  (*session)->pool = pool;
  return SPW_OK;
}

void spw_session_free(spw_session *session) {
  if (session == NULL) return;
  spw_release(session->arena);
  spw_release(session->scratch);
  spw_release(session->tokens);
  spw_plan_free(session->plan);
  spw_pool_free(session->pool);
  spw_release(session);
}

void spw_session_profile(spw_session *session, uint64_t *step_ns) {
  if (session != NULL) session->step_ns = step_ns;
}

spw_status spw_run(spw_session *session, const spw_request *request, spw_error *error) {
  if (session == NULL || request == NULL || request->inputs == NULL || request->outputs == NULL)
    return spw_fail(error, SPW_INVALID_ARGUMENT, "session, request, inputs or outputs is NULL");
  if (atomic_exchange(&session->running, 1))
    return spw_fail(error, SPW_BUSY, "this session is running in another thread: use one session for each");
  spw_status status = spw_session_prepare(session, request, error);
  if (status == SPW_OK) status = spw_pool_begin(session->pool, error);
  if (status == SPW_OK) {
    while (spw_session_next(session)) spw_execute(session);
    spw_pool_end(session->pool);
  }
  atomic_store(&session->running, 0);
  return status;
}
