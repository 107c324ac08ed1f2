/* pool_jobs: runs many small jobs of up to four stages, each with other numbers of items than the one before, and exits 0
 * when every item of every stage was computed exactly once, for its own job, and no earlier than its share's items of the
 * stage before. A pool that hangs is ended by the alarm. */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "sparrow.h"
#include "threads.h"

enum { JOBS = 300000, MOST_ITEMS = 40, MOST_STAGES = 4, SECONDS = 240 };

/* A stage that counts how often each item was computed, and those that came too early. */
typedef struct counts {
  atomic_uint items[MOST_ITEMS], early;
  struct counts *before; /* NULL for a job's first stage */
  uint32_t total, threads;
} counts;

static uint32_t first(uint32_t items, uint32_t share, uint32_t threads) {
  return (uint32_t)((uint64_t)items * share / threads);
}

static bool too_early(const counts *stage, uint32_t item) {
  uint32_t share = 0;
  while (first(stage->total, share + 1, stage->threads) <= item) share++;
  const counts *before = stage->before;
  for (uint32_t i = first(before->total, share, stage->threads); i < first(before->total, share + 1, stage->threads); i++)
    if (atomic_load(&before->items[i]) == 0) return true;
  return false;
}

static void count(void *context, uint32_t item, uint32_t worker) {
  counts *stage = context;
  (void)worker;
  if (stage->before && too_early(stage, item)) atomic_fetch_add(&stage->early, 1);
  atomic_fetch_add(&stage->items[item < MOST_ITEMS ? item : 0], 1);
}

static bool is_right(const counts *stage) {
  for (uint32_t i = 0; i < MOST_ITEMS; i++)
    if (atomic_load(&stage->items[i]) != (i < stage->total)) return false;
  return atomic_load(&stage->early) == 0;
}

static bool run_job(spw_pool *pool, uint32_t threads, uint32_t job, counts *now) {
  spw_stage stages[MOST_STAGES];
  uint32_t stage_count = 1 + job / 3 % MOST_STAGES;
  memset(now, 0, MOST_STAGES * sizeof *now);
  for (uint32_t i = 0; i < stage_count; i++) {
    now[i].before = i ? &now[i - 1] : NULL;
    now[i].total = (job * 7 + i * 5) % MOST_ITEMS;
    now[i].threads = threads;
    stages[i] = (spw_stage){count, &now[i], now[i].total};
  }
  spw_pool_run(pool, stages, stage_count);
  for (uint32_t i = 0; i < stage_count; i++)
    if (!is_right(&now[i])) {
      fprintf(stderr, "%u threads, job %u: stage %u of %u items went wrong\n", threads, job, i, now[i].total);
      return false;
    }
  return true;
}

int main(void) {
  static counts contexts[2][MOST_STAGES];
  alarm(SECONDS);
  for (uint32_t threads = 2; threads <= 4; threads++) {
    spw_pool *pool = NULL;
    if (spw_pool_create(threads, NULL, &pool, NULL) != SPW_OK) return 2;
    for (uint32_t job = 0; job < JOBS / threads; job++)
      if (!run_job(pool, threads, job, contexts[job % 2])) return 1;
    spw_pool_free(pool);
  }
  return 0;
}
