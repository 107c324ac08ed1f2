/* A step that runs: its arguments, and how it is split over the pool. Nothing here allocates or can fail: all was checked
 * when the plan was opened and when the request was prepared. */
#ifndef SPW_EXECUTE_H
#define SPW_EXECUTE_H

#include "session.h"
#include "steps.h"

enum { ITEMS_PER_THREAD = 4 }; /* so that a thread that starts late holds nobody up */

/* Its tiles are cut into `shares`, a share into tile_parts * row_parts items. With a share for each thread, a step needs
 * nothing of other shares, and none of them what it writes. */
typedef struct job {
  spw_session *session;
  const spw_kernels *kernels;
  const spw_file_step *step;
  spw_task task; /* NULL: all is done */
  uint32_t tiles; /* of the step's rows: tokens or sequences */
  uint32_t shares, tile_parts, row_parts;
  uint32_t rows;
  union {
    spw_linear_u8 linear_u8;
    spw_linear_f32 linear_f32;
    spw_attention attention;
    spw_layernorm layernorm;
    spw_quantize quantize;
    spw_rescale rescale;
    spw_elementwise elementwise;
    spw_embed embed;
  } args;
} job;

static inline spw_tiles tiles_of(const spw_session *s, uint32_t id) {
  if (id == SPW_ABSENT) return (spw_tiles){NULL, 0};
  const spw_file_buffer *b = &s->plan->buffers[id];
  return (spw_tiles){s->arena + b->offset, spw_tile_stride(s->plan)};
}

static inline uint32_t channels_of(const spw_session *s, uint32_t id) { return s->plan->buffers[id].channels; }

static inline uint32_t tiles_count(const spw_session *s, uint32_t id) {
  return s->plan->buffers[id].per_batch ? s->batch_tiles : s->tiles;
}

static inline uint32_t at_most(uint32_t a, uint32_t b) { return a < b ? a : b; }
static inline uint32_t at_least(uint32_t a, uint32_t b) { return a > b ? a : b; }
static inline uint32_t divide_up(uint32_t a, uint32_t b) { return (a + b - 1) / b; }

/* Part `index` of `parts` of [0, count), each a whole number of `unit`s but the last. */
static inline void part(uint32_t count, uint32_t unit, uint32_t parts, uint32_t index, uint32_t *begin, uint32_t *end) {
  uint64_t units = divide_up(count, unit);
  *begin = at_most((uint32_t)(units * index / parts) * unit, count);
  *end = at_most((uint32_t)(units * (index + 1) / parts) * unit, count);
}

static inline uint32_t threads_of(const job *j) { return spw_pool_threads(j->session->pool); }

/* The tiles and, where a step has them, the rows of an item: multiples of these units. */
static inline void tile_range(const job *j, uint32_t item, uint32_t unit, uint32_t *begin, uint32_t *end) {
  uint32_t of_share = item / j->row_parts % j->tile_parts, first, last;
  part(j->tiles, 1, j->shares, item / j->row_parts / j->tile_parts, &first, &last);
  part(last - first, unit, j->tile_parts, of_share, begin, end);
  *begin += first;
  *end += first;
}

static inline void row_range(const job *j, uint32_t item, uint32_t unit, uint32_t *begin, uint32_t *end) {
  part(j->rows, unit, j->row_parts, item % j->row_parts, begin, end);
}

static inline void *scratch_of(const job *j, uint32_t worker) {
  return j->session->scratch + worker * j->session->scratch_stride;
}

/* Items that are nobody's own. */
static inline void split(job *j, spw_task task, uint32_t tile_parts, uint32_t row_parts) {
  j->task = task;
  j->shares = 1;
  j->tile_parts = at_least(1, tile_parts);
  j->row_parts = at_least(1, row_parts);
}

static inline void split_by_threads(job *j, spw_task task, uint32_t tile_parts, uint32_t row_parts) {
  split(j, task, tile_parts, row_parts);
  j->shares = threads_of(j);
}

void spw_start_linear_f32(job *j);
void spw_start_linear_u8(job *j);

#endif
