/* Sparse uint8 x int8 layers whose plan holds the code that multiplies (codegen.py). */
#include "lanes.h"
#define SUMS_ARE_CORRECTED 1
#include "linear_store.h"

enum { CACHED_BYTES = 320 << 10 }; /* of activations, which each part reads anew, in the second-level cache */

typedef void (*code)(const uint8_t *x, const int8_t *weights, uint8_t *sums, const uint8_t *ahead);

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

/* Fetches at once what a part that runs for few tiles wouldn't get to. */
static void fetch_rest(fetch ahead, uint32_t tiles, uint32_t lines) {
  size_t covered = (size_t)tiles * lines * 64;
  for (size_t at = covered; at < (size_t)(ahead.end - ahead.at); at += 64) __builtin_prefetch(ahead.at + at, 0, 2);
}

static void run_part(const spw_linear_u8 *step, uint32_t part, uint32_t tile_begin, uint32_t tile_end, fetch ahead,
                     uint8_t *sums) {
  const uint8_t *content = (const uint8_t *)step->weights;
  spw_code_part about = step->parts[part];
  uint32_t first = part * SPW_CODE_ROWS;
  uint32_t rows = at_most(SPW_CODE_ROWS, (step->n + SPW_ROW_BLOCK - 1) / SPW_ROW_BLOCK * SPW_ROW_BLOCK - first);
  code run;
  uintptr_t start = (uintptr_t)(content + (size_t)about.code * 64);
  memcpy(&run, &start, sizeof run);
  fetch_rest(ahead, tile_end - tile_begin, about.lines);
  const int8_t *weights = step->weights + (size_t)about.start * 64 + SPW_CODE_REACH / 2 * 4;
  for (uint32_t tile = tile_begin; tile < tile_end; tile++) {
    run(step->x.base + tile * step->x.stride + SPW_CODE_REACH / 2 * 64, weights, sums, advance(&ahead, about.lines));
    linear_store(step, tile, 1, first, first + rows, sums);
  }
}

void SPW_KERNEL(code_s8)(const spw_linear_u8 *step, uint32_t tile_begin, uint32_t tile_end, uint32_t row_begin,
                         uint32_t row_end, void *scratch) {
  uint32_t parts = (step->n + SPW_CODE_ROWS - 1) / SPW_CODE_ROWS;
  uint32_t block = (uint32_t)(CACHED_BYTES / step->x.stride);
  if (block < SPW_CODE_TILES) block = SPW_CODE_TILES;
  for (uint32_t tile = tile_begin; tile < tile_end; tile += block)
    for (uint32_t part = row_begin / SPW_CODE_ROWS; part * SPW_CODE_ROWS < row_end; part++)
      run_part(step, part, tile, at_most(tile_end, tile + block), part_bytes(step, part + 1, parts), scratch);
}
