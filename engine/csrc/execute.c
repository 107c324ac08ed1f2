/* Runs the steps one after another, each split over the pool. */
#include "execute.h"

#include <string.h>

enum {
  ATTENTION_TILES = 4 /* fewest query tiles that are worth an item, since each packs the keys and values again */
};

static void split_tiles(job *j, spw_task task) {
  split_by_threads(j, task, at_most(ITEMS_PER_THREAD, divide_up(j->tiles, threads_of(j))), 1);
}

static void embed_item(void *context, uint32_t item, uint32_t worker) {
  const job *j = context;
  uint32_t begin, end;
  (void)worker;
  tile_range(j, item, 1, &begin, &end);
  j->kernels->embed(&j->args.embed, begin, end);
}

/* `counted` is how many tokens the sequence has so far; see steps.h for a table's four numbers. */
static uint32_t row_of(const uint32_t table[4], const int64_t *ids, uint32_t t, uint32_t *counted) {
  uint32_t offset = table[2];
  if (table[0] == SOURCE_CONSTANT) return offset;
  if (table[0] == SOURCE_POSITION) return offset + t;
  if (table[0] == SOURCE_INPUT) return (uint32_t)ids[t];
  return ids[t] == (int64_t)offset ? offset : offset + ++*counted;
}

static void fill_rows(const spw_session *s, const uint32_t table[4], uint32_t *rows) {
  for (uint32_t b = 0; b < s->batch; b++) {
    const int64_t *ids = s->inputs[table[1]] + (size_t)(s->first + b) * s->sequence;
    uint32_t *of_sequence = rows + (size_t)s->sequences[b].first_tile * SPW_LANES, counted = 0;
    for (uint32_t t = 0; t < s->sequences[b].tokens; t++) of_sequence[t] = row_of(table, ids, t, &counted);
  }
}

static void start_embed(job *j) {
  spw_session *s = j->session;
  spw_embed *args = &j->args.embed;
  args->y = tiles_of(s, j->step->out[0]);
  args->present = s->present;
  args->table_count = j->step->attributes[EMBED_TABLES];
  args->channels = channels_of(s, j->step->out[0]);
  for (uint32_t i = 0; i < args->table_count; i++) {
    uint32_t *rows = s->rows + (size_t)i * s->tiles * SPW_LANES;
    bool s8 = j->step->attributes[EMBED_S8] >> i & 1;
    const void *values = spw_blob(s->plan, j->step, i);
    fill_rows(s, j->step->attributes + EMBED_FIRST + 4 * i, rows);
    args->tables[i] = (spw_table){s8 ? NULL : values, s8 ? values : NULL, j->step->scalars[i], rows};
  }
  split_tiles(j, embed_item);
}

static void layernorm_item(void *context, uint32_t item, uint32_t worker) {
  const job *j = context;
  uint32_t begin, end;
  (void)worker;
  tile_range(j, item, 1, &begin, &end);
  j->kernels->layernorm(&j->args.layernorm, begin, end);
}

static void start_layernorm(job *j) {
  const spw_session *s = j->session;
  const spw_file_step *step = j->step;
  j->args.layernorm = (spw_layernorm){
      .x = tiles_of(s, step->in[0]),
      .residual = tiles_of(s, step->in[1]),
      .y = tiles_of(s, step->out[0]),
      .y_quantized = tiles_of(s, step->out[1]),
      .gamma = spw_blob(s->plan, step, 0),
      .beta = spw_blob(s->plan, step, 1),
      .channels = channels_of(s, step->in[0]),
      .epsilon = step->scalars[0],
      .out = {step->scalars[1], (int32_t)step->attributes[0]},
  };
  split_tiles(j, layernorm_item);
}

static void quantize_item(void *context, uint32_t item, uint32_t worker) {
  const job *j = context;
  uint32_t begin, end;
  (void)worker;
  tile_range(j, item, 1, &begin, &end);
  if (j->step->op == SPW_QUANTIZE) {
    j->kernels->quantize(&j->args.quantize, begin, end);
  } else if (j->step->op == SPW_QUANTIZE_TOKENS) {
    j->kernels->quantize_tokens(&j->args.quantize, begin, end);
  } else {
    j->kernels->dequantize(&j->args.quantize, begin, end);
  }
}

static void start_quantize(job *j) {
  const spw_session *s = j->session;
  j->args.quantize = (spw_quantize){
      .x = tiles_of(s, j->step->in[0]),
      .y = tiles_of(s, j->step->out[0]),
      .scales = tiles_of(s, j->step->op == SPW_QUANTIZE_TOKENS ? j->step->out[1] : SPW_ABSENT),
      .channels = channels_of(s, j->step->in[0]),
      .quantization = {j->step->scalars[0], (int32_t)j->step->attributes[0]},
  };
  split_tiles(j, quantize_item);
}

static void rescale_item(void *context, uint32_t item, uint32_t worker) {
  const job *j = context;
  uint32_t begin, end;
  (void)worker;
  tile_range(j, item, 1, &begin, &end);
  j->kernels->rescale(&j->args.rescale, begin, end);
}

static void start_rescale(job *j) {
  const spw_session *s = j->session;
  j->args.rescale = (spw_rescale){
      .x = tiles_of(s, j->step->in[0]),
      .scales = tiles_of(s, j->step->in[1]),
      .y = tiles_of(s, j->step->out[0]),
      .offset = spw_blob(s->plan, j->step, 0),
      .bias = spw_blob(s->plan, j->step, 1),
      .channels = channels_of(s, j->step->in[0]),
      .activation = (spw_activation)j->step->attributes[0],
  };
  split_tiles(j, rescale_item);
}

/* Finds the sequence that holds an item: first_item grows from sequence to sequence. */
static uint32_t sequence_of(const spw_session *s, uint32_t item) {
  uint32_t low = 0, high = s->batch;
  while (high - low > 1) {
    uint32_t middle = low + (high - low) / 2;
    *(s->first_item[middle] <= item ? &low : &high) = middle;
  }
  return low;
}

static void attention_item(void *context, uint32_t item, uint32_t worker) {
  const job *j = context;
  const spw_session *s = j->session;
  uint32_t heads = j->step->attributes[ATTENTION_HEADS], b = sequence_of(s, item / heads);
  uint32_t tiles = divide_up(s->sequences[b].tokens, SPW_LANES), begin, end;
  part(tiles, 1, s->first_item[b + 1] - s->first_item[b], item / heads - s->first_item[b], &begin, &end);
  if (j->step->op == SPW_ATTENTION_U8) {
    j->kernels->attention_u8(&j->args.attention, b, item % heads, begin, end, scratch_of(j, worker));
  } else {
    j->kernels->attention_f32(&j->args.attention, b, item % heads, begin, end, scratch_of(j, worker));
  }
}

static const float *fill_mask(const spw_session *s, uint32_t input, float mask_value) {
  if (input == SPW_ABSENT) return NULL;
  for (uint32_t b = 0; b < s->batch; b++)
    for (uint32_t t = 0; t < s->sequences[b].tokens; t++) {
      bool kept = s->inputs[input][(size_t)(s->first + b) * s->sequence + t] != 0;
      s->mask[(size_t)s->sequences[b].first_tile * SPW_LANES + t] = kept ? 0.0f : mask_value;
    }
  return s->mask;
}

static spw_quantization attention_quantization(const spw_file_step *step, uint32_t i) {
  return (spw_quantization){step->scalars[2 + i], (int32_t)step->attributes[ATTENTION_ZERO + i]};
}

static void start_attention(job *j) {
  spw_session *s = j->session;
  const spw_file_step *step = j->step;
  j->args.attention = (spw_attention){
      .q = tiles_of(s, step->in[0]),
      .k = tiles_of(s, step->in[1]),
      .v = tiles_of(s, step->in[2]),
      .y = tiles_of(s, step->out[0]),
      .sequences = s->sequences,
      .mask = fill_mask(s, step->attributes[ATTENTION_MASK], step->scalars[1]),
      .bias = step->attributes[ATTENTION_BIAS] ? spw_blob(s->plan, step, 0) : NULL,
      .bias_length = step->attributes[ATTENTION_BIAS],
      .head_dim = step->attributes[ATTENTION_HEAD_DIM],
      .scale = step->scalars[0],
      .q_quant = attention_quantization(step, 0),
      .k_quant = attention_quantization(step, 1),
      .v_quant = attention_quantization(step, 2),
      .p_quant = attention_quantization(step, 3),
      .out = attention_quantization(step, 4),
      .quantized = s->plan->buffers[step->out[0]].is_u8,
  };
  /* Queries are split as linear layers split tokens: a thread finds its own in its caches, and leaves results there. */
  uint32_t most = at_least(ATTENTION_TILES, divide_up(s->tiles, threads_of(j)));
  s->first_item[0] = 0;
  for (uint32_t b = 0; b < s->batch; b++)
    s->first_item[b + 1] = s->first_item[b] + divide_up(divide_up(s->sequences[b].tokens, SPW_LANES), most);
  split(j, attention_item, s->first_item[s->batch], step->attributes[ATTENTION_HEADS]);
}

static void elementwise_item(void *context, uint32_t item, uint32_t worker) {
  const job *j = context;
  uint32_t begin, end;
  (void)worker;
  tile_range(j, item, 1, &begin, &end);
  if (j->step->op == SPW_ADD) {
    j->kernels->add(&j->args.elementwise, begin, end);
  } else {
    j->kernels->activate(&j->args.elementwise, begin, end);
  }
}

static void start_elementwise(job *j) {
  const spw_session *s = j->session;
  const spw_file_step *step = j->step;
  bool add = step->op == SPW_ADD;
  j->args.elementwise = (spw_elementwise){
      .x = tiles_of(s, step->in[0]),
      .right = tiles_of(s, add ? step->in[1] : SPW_ABSENT),
      .y = tiles_of(s, step->out[0]),
      .channels = channels_of(s, step->in[0]),
      .activation = add ? SPW_NONE : (spw_activation)step->attributes[0],
  };
  split_tiles(j, elementwise_item);
}

static const float *token_at(const spw_tiles *tiles, size_t token) {
  return (const float *)(tiles->base + token / SPW_LANES * tiles->stride) + token % SPW_LANES;
}

static void run_select(job *j) {
  const spw_session *s = j->session;
  spw_tiles x = tiles_of(s, j->step->in[0]), y = tiles_of(s, j->step->out[0]);
  uint32_t channels = channels_of(s, j->step->in[0]);
  for (uint32_t tile = 0; tile < s->batch_tiles; tile++) memset(y.base + tile * y.stride, 0, (size_t)channels * 4 * SPW_LANES);
  for (uint32_t b = 0; b < s->batch; b++) {
    const float *from = token_at(&x, (size_t)s->sequences[b].first_tile * SPW_LANES);
    float *to = (float *)(uintptr_t)token_at(&y, b);
    for (uint32_t c = 0; c < channels; c++) to[c * SPW_LANES] = from[c * SPW_LANES];
  }
}

static void copy_row(const float *from, float *to, uint32_t first, uint32_t count) {
  for (uint32_t c = 0; c < count; c++) to[c] = from[(first + c) * SPW_LANES];
}

static void run_output(job *j) {
  const spw_session *s = j->session;
  const spw_output *output = s->plan->outputs;
  while (output->step != j->step) output++;
  float *to = s->outputs[output - s->plan->outputs];
  spw_tiles x = tiles_of(s, j->step->in[0]);
  uint32_t column = j->step->attributes[0], first = column == SPW_ABSENT ? 0 : column;
  uint32_t count = column == SPW_ABSENT ? channels_of(s, j->step->in[0]) : 1;
  for (uint32_t b = 0; b < s->batch; b++) {
    if (!output->info.per_token) {
      copy_row(token_at(&x, b), to + (size_t)(s->first + b) * count, first, count);
      continue;
    }
    float *row = to + (size_t)(s->first + b) * s->sequence * count;
    uint32_t tokens = s->sequences[b].tokens;
    for (uint32_t t = 0; t < tokens; t++)
      copy_row(token_at(&x, (size_t)s->sequences[b].first_tile * SPW_LANES + t), row + (size_t)t * count, first,
               count);
    memset(row + (size_t)tokens * count, 0, (size_t)(s->sequence - tokens) * count * sizeof(float));
  }
}

/* Starting a step fills in its job. Serial ones need all before them done: they use memory that all of their kind share,
 * or compute at once. */
static const struct operation {
  void (*start)(job *);
  bool serial;
} operations[SPW_OP_COUNT] = {
    [SPW_EMBED] = {start_embed, true},
    [SPW_LAYERNORM] = {start_layernorm, false},
    [SPW_QUANTIZE] = {start_quantize, false},
    [SPW_LINEAR_F32] = {spw_start_linear_f32, false},
    [SPW_SPARSE_F32] = {spw_start_linear_f32, false},
    [SPW_LINEAR_U8] = {spw_start_linear_u8, false},
    [SPW_SPARSE_U8] = {spw_start_linear_u8, false},
    [SPW_CODE_U8] = {spw_start_linear_u8, false},
    [SPW_ATTENTION_F32] = {start_attention, true},
    [SPW_ATTENTION_U8] = {start_attention, true},
    [SPW_ADD] = {start_elementwise, false},
    [SPW_ACTIVATE] = {start_elementwise, false},
    [SPW_SELECT] = {run_select, true},
    [SPW_OUTPUT] = {run_output, true},
    [SPW_DEQUANTIZE] = {start_quantize, false},
    [SPW_QUANTIZE_TOKENS] = {start_quantize, false},
    [SPW_RESCALE] = {start_rescale, false},
};

/* Steps that run as one job of the pool: a thread goes on to the next without waiting for the others. */
typedef struct chain {
  job jobs[SPW_MAX_STAGES];
  uint32_t count;
} chain;

static void run_chain(chain *c) {
  spw_stage stages[SPW_MAX_STAGES];
  for (uint32_t i = 0; i < c->count; i++) {
    job *j = &c->jobs[i];
    stages[i] = (spw_stage){j->task, j, j->shares * j->tile_parts * j->row_parts};
  }
  if (c->count) spw_pool_run(c->jobs[0].session->pool, stages, c->count);
  c->count = 0;
}

static bool is_local(const job *j) { return j->shares == threads_of(j); }

static job job_of(spw_session *s, const spw_file_step *step) {
  bool reads = step->in[0] < s->plan->header.buffer_count;
  return (job){.session = s,
               .kernels = spw_pool_kernels(s->pool),
               .step = step,
               .tiles = reads ? tiles_count(s, step->in[0]) : s->tiles};
}

static void add_step(chain *c, spw_session *s, const spw_file_step *step) {
  job next = job_of(s, step);
  if (operations[step->op].serial) run_chain(c);
  operations[step->op].start(&next);
  if (next.task == NULL) return;
  if (c->count && (!is_local(&next) || next.tiles != c->jobs[0].tiles)) run_chain(c);
  c->jobs[c->count++] = next;
  if (!is_local(&next) || c->count == SPW_MAX_STAGES) run_chain(c);
}

void spw_execute(spw_session *s) {
  chain c = {.count = 0};
  for (uint32_t i = 0; i < s->plan->header.step_count; i++) {
    uint64_t begin = s->step_ns ? spw_now_ns() : 0;
    add_step(&c, s, &s->plan->steps[i]);
    if (s->step_ns == NULL) continue;
    run_chain(&c);
    s->step_ns[i] += spw_now_ns() - begin;
  }
  run_chain(&c);
}
