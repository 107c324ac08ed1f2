/* Runs linear layers. */
#include "execute.h"

#define GELU_POINT_DISTANCE (5.6f / SPW_GELU_LAST)
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

/* Least-maximum fits of both forms of g, with an error of 6e-8 and 7e-8. */
static const float GELU_FIT[5][16] = {
  {0.0101470575f, 0.0021777486f, 0.00034811112f, 4.160577e-05f, 3.7260788e-06f, 2.5036596e-07f, 0.f,
   0.10537103f, 0.15840447f, 0.16946903f, 0.152499f, 0.12145291f, 0.08749183f, 0.05764148f, 0.034946393f,
   0.019570094f},
  {-0.014099387f, -0.0036734971f, -0.0006884641f, -9.4195435e-05f, -9.485539e-06f, -7.064994e-07f,
   0.26692092f, 0.15588558f, 0.059811547f, -0.010781433f, -0.05234615f, -0.06807258f, -0.065438055f,
   -0.052989498f, -0.037784807f, -0.024213713f},
  {0.008261717f, 0.0027790233f, 0.000631177f, 0.00010096595f, 1.1610629e-05f, 9.711048e-07f, -0.113695025f,
   -0.105805546f, -0.08454505f, -0.0560552f, -0.027650585f, -0.005105934f, 0.008906121f, 0.014795434f,
   0.014885634f, 0.011967728f},
  {-0.0023893109f, -0.0012088479f, -0.00035890524f, -7.054641e-05f, -9.645366e-06f, -9.401646e-07f,
   1.7210701e-05f, 0.010187f, 0.01732004f, 0.019670418f, 0.017424198f, 0.012284352f, 0.0064662565f,
   0.0017090364f, -0.0012091434f, -0.002384238f},
  {0.00023573452f, 0.00029579323f, 0.00012841022f, 3.1914748e-05f, 5.1936954e-06f, 5.8261134e-07f,
   0.005340423f, 0.004548471f, 0.0024381264f, -6.828679e-05f, -0.002027646f, -0.00291867f, -0.0027514028f,
   -0.0019425834f, -0.0009878842f, -0.00023816036f},
};
static const float GELU_TANH_FIT[5][16] = {
  {0.0096745398f, 0.0018498398f, 0.0002320536f, 1.8068698e-05f, 8.2281429e-07f, 2.0622441e-08f, 0.f,
   0.10537262f, 0.15842628f, 0.16955326f, 0.15267491f, 0.12168586f, 0.087675348f, 0.057654556f, 0.034732375f,
   0.019171691f},
  {-0.014125083f, -0.0034337626f, -0.00053415215f, -5.0569604e-05f, -2.7454701e-06f, -8.0120614e-08f,
   0.26692092f, 0.15589797f, 0.059889678f, -0.010613575f, -0.052170258f, -0.068046875f, -0.065667197f,
   -0.053418923f, -0.038228031f, -0.024484307f},
  {0.0084955823f, 0.002799131f, 0.00056078978f, 6.6394045e-05f, 4.4149456e-06f, 1.5539993e-07f, -0.11369503f,
   -0.10577013f, -0.084453918f, -0.055986907f, -0.02771784f, -0.0053294939f, 0.0086493352f, 0.014675763f,
   0.01497731f, 0.012200306f},
  {-0.0024303636f, -0.0012735797f, -0.00035864225f, -5.6911951e-05f, -4.9784812e-06f, -2.3013567e-07f,
   1.7366356e-05f, 0.010227168f, 0.017340524f, 0.01961497f, 0.017311668f, 0.012209177f, 0.0065042982f,
   0.0018401154f, -0.0010792632f, -0.0023357468f},
  {0.00020843683f, 0.00031074835f, 0.00013918261f, 3.0253676e-05f, 3.3997926e-06f, 1.9426886e-07f,
   0.0053663375f, 0.0045557693f, 0.0024110207f, -0.00010674338f, -0.0020368092f, -0.002875563f, -0.0026919653f,
   -0.0019167885f, -0.0010138009f, -0.00028694261f},
};

static void find_gelu(spw_linear_u8 *args) {
  const float(*fit)[16] = args->activation == SPW_GELU ? GELU_FIT : GELU_TANH_FIT;
  float unit = 1.0f / args->out.scale;
  for (int degree = 0; degree < 5; degree++)
    for (int point = 0; point < 16; point++) args->gelu.fit[degree][point] = fit[degree][point] * -unit;
  args->gelu.slope = GELU_POINT_DISTANCE * unit;
  args->activation = SPW_GELU;
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
  bool is_gelu = j->args.linear_u8.activation == SPW_GELU || j->args.linear_u8.activation == SPW_GELU_TANH;
  if (is_gelu && j->args.linear_u8.quantized) find_gelu(&j->args.linear_u8);
  if (coded) {
    find_code(j);
    split_coded(j, code_s8_item);
  } else if (sparse) {
    split_linear(j, spmm_s8_item, SPW_SPARSE_TILES);
  } else {
    split_linear(j, gemm_s8_item, SPW_DENSE_TILES * 3);
  }
}
