/* What a pool can do at most on this machine, measured: products of each kind, and bytes read from memory. */
#include "memory.h"
#include "status.h"
#include "threads.h"

#include <stdatomic.h>
#include <string.h>
#include <time.h>

enum {
  ROUNDS = 20000,            /* of one item: some hundred microseconds */
  ITEMS_PER_THREAD = 8,
  REPEATS = 5,
  MEMORY_BYTES = 192 << 20,  /* more than the last level of a cache holds */
  MEMORY_ITEM_BYTES = 1 << 20
};

typedef struct probe {
  const spw_kernels *kernels;
  const uint64_t *memory;
  atomic_uint_fast64_t work, result; /* the second so that nothing is optimised away */
} probe;

static void s8_item(void *context, uint32_t item, uint32_t worker) {
  probe *p = context;
  uint32_t sum;
  (void)item, (void)worker;
  atomic_fetch_add(&p->work, p->kernels->probe_s8(ROUNDS, &sum));
  atomic_fetch_add(&p->result, sum);
}

static void f32_item(void *context, uint32_t item, uint32_t worker) {
  probe *p = context;
  uint32_t sum;
  (void)item, (void)worker;
  atomic_fetch_add(&p->work, p->kernels->probe_f32(ROUNDS, &sum));
  atomic_fetch_add(&p->result, sum);
}

static void memory_item(void *context, uint32_t item, uint32_t worker) {
  probe *p = context;
  (void)worker;
  enum { WORDS = MEMORY_ITEM_BYTES / 8, STREAMS = 8 };
  const uint64_t *from = p->memory + (size_t)item * WORDS;
  uint64_t sums[STREAMS] = {0};
  for (size_t i = 0; i < WORDS; i += STREAMS)
    for (size_t j = 0; j < STREAMS; j++) sums[j] += from[i + j];
  for (size_t j = 0; j < STREAMS; j++) atomic_fetch_add(&p->result, sums[j]);
  atomic_fetch_add(&p->work, MEMORY_ITEM_BYTES);
}

uint64_t spw_now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The best of several repetitions: what others take from the machine only lowers a result. */
static double best_rate(spw_pool *pool, spw_task task, probe *p, uint32_t items) {
  const spw_stage stage = {task, p, items};
  double best = 0;
  for (uint32_t i = 0; i < REPEATS; i++) {
    atomic_store(&p->work, 0);
    uint64_t begin = spw_now_ns();
    spw_pool_run(pool, &stage, 1);
    double rate = (double)atomic_load(&p->work) / ((double)(spw_now_ns() - begin) * 1e-9);
    if (i > 0 && rate > best) best = rate; /* the first run wakes the threads and the clock */
  }
  return best;
}

spw_status spw_probe(spw_pool *pool, spw_peaks *peaks, spw_error *error) {
  if (pool == NULL || peaks == NULL) return spw_fail(error, SPW_INVALID_ARGUMENT, "pool or peaks is NULL");
  probe p = {.kernels = spw_pool_kernels(pool)};
  uint64_t *memory = spw_allocate(MEMORY_BYTES);
  if (memory == NULL) return spw_fail(error, SPW_OUT_OF_MEMORY, "no memory for %d bytes", (int)MEMORY_BYTES);
  memset(memory, 1, MEMORY_BYTES);
  p.memory = memory;
  spw_status status = spw_pool_begin(pool, error);
  if (status == SPW_OK) {
    uint32_t items = spw_pool_threads(pool) * ITEMS_PER_THREAD;
    peaks->s8_products_per_s = best_rate(pool, s8_item, &p, items);
    peaks->f32_products_per_s = best_rate(pool, f32_item, &p, items);
    peaks->bytes_per_s = best_rate(pool, memory_item, &p, MEMORY_BYTES / MEMORY_ITEM_BYTES);
    spw_pool_end(pool);
  }
  spw_release(memory);
  return status;
}
