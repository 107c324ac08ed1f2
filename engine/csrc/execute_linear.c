/* Runs linear layers. */
#include "execute.h"

#define GELU_POINT_DISTANCE (5.75f / SPW_GELU_LAST)
enum {
  FETCH_AHEAD = 1 << 14, /* bytes of the next layer's code that are fetched */
  ITEM_ROWS = 128        /* fewest rows of a linear layer that are worth an item */
};

/* Tiles are split first, in whole groups of `group`, so that a thread finds its activations in its own caches; then
 * rows, so that there are items to take over from a thread that is late. */
static void split_linear(job *j, spw_task task, uint32_t group) {
  uint32_t wanted = threads_of(j) * ITEMS_PER_THREAD, tile_parts = at_most(wanted, divide_up(j->tiles, group));
  split(j, task, tile_parts, at_most(divide_up(wanted, tile_parts), divide_up(j->rows, ITEM_ROWS)));
}

/* A thread runs all code on tiles of its own, unless those are too few to be worth fetching it. */
static void split_coded(job *j, spw_task task) {
  if (j->tiles < threads_of(j) * SPW_CODE_TILES) {
    split_linear(j, task, SPW_CODE_TILES);
  } else {
    split_by_threads(j, task, 1, at_most(ITEMS_PER_THREAD, divide_up(j->rows, ITEM_ROWS)));
  }
}

static void linear_part(const job *j, uint32_t item, uint32_t tiles, uint32_t rows, uint32_t range[4]) {
  tile_range(j, item, tiles, &range[0], &range[1]);
  row_range(j, item, rows, &range[2], &range[3]);
}

static void gemm_f32_item(void *context, uint32_t item, uint32_t worker) {
  const job *j = context;
  uint32_t r[4];
  (void)worker;
  linear_part(j, item, SPW_DENSE_TILES * 3, SPW_ROW_BLOCK, r);
  j->kernels->gemm_f32(&j->args.linear_f32, r[0], r[1], r[2], r[3]);
}

static void spmm_f32_item(void *context, uint32_t item, uint32_t worker) {
  const job *j = context;
  uint32_t r[4];
  linear_part(j, item, SPW_SPARSE_TILES, SPW_ROW_BLOCK, r);
  j->kernels->spmm_f32(&j->args.linear_f32, r[0], r[1], r[2], r[3], scratch_of(j, worker));
}

void spw_start_linear_f32(job *j) {
  const spw_session *s = j->session;
  const spw_file_step *step = j->step;
  bool sparse = step->op == SPW_SPARSE_F32;
  j->args.linear_f32 = (spw_linear_f32){
      .x = tiles_of(s, step->in[0]),
      .y = tiles_of(s, step->out[0]),
      .weights = spw_blob(s->plan, step, BLOB_WEIGHTS),
      .bias = spw_blob(s->plan, step, BLOB_BIAS),
      .starts = sparse ? spw_blob(s->plan, step, BLOB_STARTS) : NULL,
      .indices = sparse ? spw_blob(s->plan, step, BLOB_INDICES) : NULL,
      .k = step->attributes[LINEAR_K],
      .n = step->attributes[LINEAR_N],
      .chunk = step->attributes[LINEAR_CHUNK],
      .activation = (spw_activation)step->attributes[LINEAR_ACTIVATION],
  };
  j->rows = step->attributes[LINEAR_N];
  if (sparse) {
    split_linear(j, spmm_f32_item, SPW_SPARSE_TILES);
  } else {
    split_linear(j, gemm_f32_item, SPW_DENSE_TILES * 3);
  }
}

static void gemm_s8_item(void *context, uint32_t item, uint32_t worker) {
  const job *j = context;
  uint32_t r[4];
  (void)worker;
  linear_part(j, item, SPW_DENSE_TILES * 3, SPW_ROW_BLOCK, r);
  j->kernels->gemm_s8(&j->args.linear_u8, r[0], r[1], r[2], r[3]);
}

static void spmm_s8_item(void *context, uint32_t item, uint32_t worker) {
  const job *j = context;
  uint32_t r[4];
  linear_part(j, item, SPW_SPARSE_TILES, SPW_PAIR_ROWS, r);
  r[3] = divide_up(r[3], SPW_ROW_BLOCK) * SPW_ROW_BLOCK;
  j->kernels->spmm_s8(&j->args.linear_u8, r[0], r[1], r[2], r[3], scratch_of(j, worker));
}

static void code_s8_item(void *context, uint32_t item, uint32_t worker) {
  const job *j = context;
  uint32_t r[4];
  linear_part(j, item, 1, spw_code_rows(j->args.linear_u8.finish), r);
  j->kernels->code_s8(&j->args.linear_u8, r[0], r[1], r[2], r[3], scratch_of(j, worker));
}

/* A coded layer's first part is fetched while the one before it runs its last. */
static void find_code(job *j) {
  const spw_plan *plan = j->session->plan;
  spw_linear_u8 *args = &j->args.linear_u8;
  args->parts = spw_blob(plan, j->step, BLOB_STARTS);
  args->weights_end = (const uint8_t *)args->weights + j->step->blobs[BLOB_WEIGHTS].size;
  args->finish = (spw_finish)j->step->attributes[LINEAR_FINISH];
  args->next_code = args->next_code_end = args->weights_end;
  const spw_file_step *end = plan->steps + plan->header.step_count;
  for (const spw_file_step *next = j->step + 1; next < end; next++) {
    if (next->op != SPW_CODE_U8) continue;
    args->next_code = spw_blob(plan, next, BLOB_WEIGHTS);
    uint64_t size = next->blobs[BLOB_WEIGHTS].size;
    args->next_code_end = args->next_code + (size < FETCH_AHEAD ? size : FETCH_AHEAD);
    return;
  }
}

/* A least-maximum fit of -g, with an error of 3e-8. */
static void find_gelu(spw_linear_u8 *args) {
  static const float fit[6][16] = {
    {0.0f, 0.131868243f, 0.169952139f, 0.147800729f, 0.102148183f, 0.0588812679f, 0.0288773347f, 0.0121666603f,
     0.00442674337f, 0.00139510841f, 0.000381544116f, 9.06582791e-05f, 1.87298938e-05f, 3.36635367e-06f,
     5.26553947e-07f, 7.16969666e-08f},
    {0.185603589f, 0.0805559978f, 0.00151462574f, -0.0394422226f, -0.0474851243f, -0.0373223238f, -0.0227999277f,
     -0.0114164129f, -0.00479525607f, -0.00171017577f, -0.0005215602f, -0.000136636387f, -3.08426315e-05f,
     -6.01167358e-06f, -1.01340697e-06f, -1.47922677e-07f},
    {-0.0549714752f, -0.0477764904f, -0.03023047f, -0.011234914f, 0.00186810165f, 0.00709403027f, 0.00681274012f,
     0.00446512457f, 0.00227953843f, 0.000949325797f, 0.000329644128f, 9.6615724e-05f, 2.40835325e-05f,
     5.13169789e-06f, 9.38029643e-07f, 1.47475745e-07f},
    {-6.05006562e-06f, 0.00455109123f, 0.00661047967f, 0.00562254433f, 0.0030107752f, 0.000626068038f,
     -0.000609162438f, -0.000831387239f, -0.000591949094f, -0.000306774164f, -0.000125710256f, -4.21650293e-05f,
     -1.17878535e-05f, -2.77676327e-06f, -5.5507553e-07f, -9.46271612e-08f},
    {0.00128547347f, 0.000894304307f, 0.000109273162f, -0.000526806514f, -0.000683779654f, -0.000464120472f,
     -0.000163315708f, 2.33395622e-05f, 7.60955154e-05f, 5.99202394e-05f, 3.14495192e-05f, 1.26310997e-05f,
     4.07980997e-06f, 1.08603911e-06f, 2.41665447e-07f, 4.5359716e-08f},
    {-3.99561904e-05f, -0.00013252905f, -0.000160662341f, -8.25670504e-05f, 1.54972586e-05f, 6.16344914e-05f,
     5.20936992e-05f, 2.23505249e-05f, 1.21852554e-06f, -5.75561171e-06f, -4.97241854e-06f, -2.59245735e-06f,
     -1.00284979e-06f, -3.0706974e-07f, -7.6703671e-08f, -1.59025539e-08f},
  };
  float unit = 1.0f / args->out.scale;
  for (int degree = 0; degree < 6; degree++)
    for (int point = 0; point < 16; point++) args->gelu.fit[degree][point] = fit[degree][point] * -unit;
  args->gelu.slope = GELU_POINT_DISTANCE * unit;
}

void spw_start_linear_u8(job *j) {
  const spw_session *s = j->session;
  const spw_file_step *step = j->step;
  bool sparse = step->op == SPW_SPARSE_U8, coded = step->op == SPW_CODE_U8;
  j->args.linear_u8 = (spw_linear_u8){
      .x = tiles_of(s, step->in[0]),
      .y = tiles_of(s, step->out[0]),
      .residual = tiles_of(s, step->in[1]),
      .weights = spw_blob(s->plan, step, BLOB_WEIGHTS),
      .starts = sparse ? spw_blob(s->plan, step, BLOB_STARTS) : NULL,
      .indices = sparse ? spw_blob(s->plan, step, BLOB_INDICES) : NULL,
      .scale = spw_blob(s->plan, step, BLOB_SCALE),
      .bias = spw_blob(s->plan, step, BLOB_BIAS),
      .correction = coded ? NULL : spw_blob(s->plan, step, BLOB_CORRECTION),
      .k = step->attributes[LINEAR_K],
      .n = step->attributes[LINEAR_N],
      .chunk = step->attributes[LINEAR_CHUNK],
      .activation = (spw_activation)step->attributes[LINEAR_ACTIVATION],
      .quantized = s->plan->buffers[step->out[0]].is_u8,
      .out = {step->scalars[0], (int32_t)step->attributes[LINEAR_OUT_ZERO]},
  };
  j->rows = step->attributes[LINEAR_N];
  if (j->args.linear_u8.quantized && j->args.linear_u8.activation == SPW_GELU) find_gelu(&j->args.linear_u8);
  if (coded) {
    find_code(j);
    split_coded(j, code_s8_item);
  } else if (sparse) {
    split_linear(j, spmm_s8_item, SPW_SPARSE_TILES);
  } else {
    split_linear(j, gemm_s8_item, SPW_DENSE_TILES * 3);
  }
}
