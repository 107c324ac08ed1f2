/* A step that runs: its arguments, and how it is split over the pool. Nothing here allocates or can fail: all was checked
 * when the plan was opened and when the request was prepared. */
#ifndef SPW_EXECUTE_H
#define SPW_EXECUTE_H

#include "session.h"
#include "steps.h"

enum { ITEMS_PER_THREAD = 4 }; /* so that a thread that starts late holds nobody up */

typedef struct job {
  spw_session *session;
  const spw_kernels *kernels;
  const spw_file_step *step;
  uint32_t tiles;                 /* of the step's rows: tokens or sequences */
  uint32_t tile_parts, row_parts; /* items = tile_parts * row_parts */
  uint32_t rows;
  union {
    spw_linear_u8 linear_u8;
    spw_linear_f32 linear_f32;
    spw_attention attention;
    spw_layernorm layernorm;
    spw_quantize quantize;
    spw_elementwise elementwise;
    spw_embed embed;
  } args;
} job;

static inline spw_tiles tiles_of(const spw_session *s, uint32_t id) {
  if (id == SPW_ABSENT) return (spw_tiles){NULL, 0};
  const spw_file_buffer *b = &s->plan->buffers[id];
  return (spw_tiles){s->arena + b->offset * s->tiles, spw_buffer_stride(b)};
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

/* The tiles that are one thread's own, or the fewest that are worth to be taken together. */
static inline uint32_t share_of_thread(const spw_session *s, uint32_t tiles, uint32_t fewest) {
  return at_least(fewest, divide_up(tiles, spw_pool_threads(s->pool)));
}

static inline void *scratch_of(const job *j, uint32_t worker) {
  return j->session->scratch + worker * j->session->scratch_stride;
}

static inline void run_split(job *j, spw_task task, uint32_t tile_parts, uint32_t row_parts) {
  j->tile_parts = at_least(1, tile_parts);
  j->row_parts = at_least(1, row_parts);
  spw_pool_run(j->session->pool, task, j, j->tile_parts * j->row_parts);
}

static inline void run_tiles(job *j, spw_task task) {
  uint32_t wanted = spw_pool_threads(j->session->pool) * ITEMS_PER_THREAD;
  run_split(j, task, at_most(j->tiles, wanted), 1);
}

void spw_run_linear_f32(job *j);
void spw_run_linear_u8(job *j);

#endif
