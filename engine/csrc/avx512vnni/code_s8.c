/* Sparse uint8 x int8 layers whose plan holds the code that multiplies (codegen.py). */
#include "lanes.h"
#define SUMS_ARE_CORRECTED 1
#include "linear_store.h"

enum { CACHED_BYTES = 320 << 10 }; /* of activations, which each part reads anew, in the second-level cache */

typedef void (*code)(const uint8_t *x, const int8_t *weights, uint8_t *sums, const uint8_t *ahead, uint8_t *y,
                     const uint8_t *residual, const uint8_t *further);

/* Memory that is needed soon, fetched line by line while code runs. */
typedef struct fetch {
  const uint8_t *at, *end;
} fetch;

static fetch part_bytes(const spw_linear_u8 *step, uint32_t part, uint32_t parts) {
  if (part >= parts) return (fetch){step->next_code, step->next_code_end};
  const uint8_t *content = (const uint8_t *)step->weights;
  const uint8_t *end = part + 1 < parts ? content + (size_t)step->parts[part + 1].code * 64 : step->weights_end;
  return (fetch){content + (size_t)step->parts[part].code * 64, end};
}

/* The next `lines` lines, or, where all are fetched, the last ones again. */
static const uint8_t *advance(fetch *ahead, uint32_t lines) {
  const uint8_t *at = ahead->at;
  if ((size_t)(ahead->end - at) > (size_t)lines * 64) ahead->at += (size_t)lines * 64;
  return at;
}

/* Fetches at once what a part that runs for a single tile doesn't get to. */
static void fetch_rest(fetch ahead, uint32_t tiles, uint32_t lines) {
  size_t covered = (size_t)tiles * 3 * lines * 64;
  for (size_t at = covered; at < (size_t)(ahead.end - ahead.at); at += 64) __builtin_prefetch(ahead.at + at, 0, 2);
}

/* Sums that wait in the frame until the next tile's products, among which they are finished. */
typedef struct left {
  uint32_t tile, first, rows; /* no rows: nothing is left */
} left;

static code function_at(const uint8_t *content) {
  code function;
  uintptr_t address = (uintptr_t)content;
  memcpy(&function, &address, sizeof function);
  return function;
}

static uint8_t *results(const spw_linear_u8 *step, left waiting, spw_code_frame *frame) {
  if (waiting.rows == 0) return frame->nowhere[0];
  size_t row_bytes = step->quantized ? SPW_LANES : 4 * SPW_LANES;
  return step->y.base + waiting.tile * step->y.stride + waiting.first * row_bytes;
}

static const uint8_t *residuals(const spw_linear_u8 *step, left waiting, const spw_code_frame *frame) {
  if (waiting.rows == 0 || step->residual.base == NULL) return frame->nowhere[0];
  return step->residual.base + waiting.tile * step->residual.stride + waiting.first * 4 * SPW_LANES;
}

static void finish(const spw_linear_u8 *step, left *waiting, const spw_code_frame *frame) {
  if (waiting->rows) linear_store(step, waiting->tile, 1, waiting->first, waiting->first + waiting->rows, frame->sums[0]);
  waiting->rows = 0;
}

static void run_part(const spw_linear_u8 *step, uint32_t part, uint32_t tile_begin, uint32_t tile_end, fetch ahead,
                     spw_code_frame *frame, left *waiting) {
  const uint8_t *content = (const uint8_t *)step->weights;
  spw_code_part about = step->parts[part];
  uint32_t most = spw_code_rows(step->finish), first = part * most;
  uint32_t rows = at_most(most, (step->n + SPW_ROW_BLOCK - 1) / SPW_ROW_BLOCK * SPW_ROW_BLOCK - first);
  bool finishes = step->finish != SPW_STORED && rows == most;
  code run = function_at(content + (size_t)about.code * 64);
  const int8_t *weights = step->weights + (size_t)about.start * 64 + SPW_CODE_REACH / 2 * 4;
  bool is_short = tile_end - tile_begin < SPW_CODE_TILES;
  if (is_short) fetch_rest(ahead, tile_end - tile_begin, about.lines);
  if (!finishes) finish(step, waiting, frame);
  for (uint32_t tile = tile_begin; tile < tile_end; tile++) {
    const uint8_t *x = step->x.base + tile * step->x.stride, *now = advance(&ahead, about.lines);
    /* Many tiles have time enough; what their code has to fetch besides is what it reads next. */
    const uint8_t *further = is_short ? advance(&ahead, 2 * about.lines) : (const uint8_t *)weights;
    run(x + SPW_CODE_REACH / 2 * 64, weights, frame->sums[0], now, results(step, *waiting, frame),
        residuals(step, *waiting, frame), further);
    *waiting = (left){tile, first, rows};
    if (!finishes) {
      finish(step, waiting, frame);
    } else if (tile == tile_begin) {
      memcpy(frame->scale, step->scale + first, rows * sizeof(float));
      memcpy(frame->bias, step->bias + first, rows * sizeof(float));
    }
  }
}

/* The numbers of vf_gelu_bytes4 and vf_store_u8. */
static void prepare(const spw_linear_u8 *step, spw_code_frame *frame) {
  static const uint8_t order[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
  if (!step->quantized) return;
  memcpy(frame->fit, step->gelu.fit, sizeof frame->fit);
  for (int i = 0; i < 4; i++) memcpy(frame->order + 16 * i, order, sizeof order);
  for (int i = 0; i < 32; i++) frame->zero_point[i] = (int16_t)step->out.zero_point;
  frame->zero = 0.0f;
  frame->last = SPW_GELU_LAST;
  frame->magic = SPW_GELU_ROUNDING;
  frame->slope = step->gelu.slope;
  frame->magnitude = INT32_MAX;
}

void SPW_KERNEL(code_s8)(const spw_linear_u8 *step, uint32_t tile_begin, uint32_t tile_end, uint32_t row_begin,
                         uint32_t row_end, void *scratch) {
  uint32_t most = spw_code_rows(step->finish), parts = (step->n + most - 1) / most;
  uint32_t block = CACHED_BYTES / ((step->k + 3) / 4 * 64);
  if (block < SPW_CODE_TILES) block = SPW_CODE_TILES;
  left waiting = {0};
  prepare(step, scratch);
  for (uint32_t tile = tile_begin; tile < tile_end; tile += block)
    for (uint32_t part = row_begin / most; part * most < row_end; part++)
      run_part(step, part, tile, at_most(tile_end, tile + block), part_bytes(step, part + 1, parts), scratch, &waiting);
  finish(step, &waiting, scratch);
}
