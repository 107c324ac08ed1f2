/* pool_jobs: runs many small jobs, each with another number of items than the one before, and exits 0 when every
 * item of every job was computed exactly once, for its own job. A pool that hangs is ended by the alarm. */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "sparrow.h"
#include "threads.h"

enum { JOBS = 300000, MOST_ITEMS = 40, SECONDS = 240 };

typedef struct counts {
  atomic_uint items[MOST_ITEMS];
} counts;

static void count(void *context, uint32_t item, uint32_t worker) {
  (void)worker;
  atomic_fetch_add(&((counts *)context)->items[item < MOST_ITEMS ? item : 0], 1);
}

int main(void) {
  static counts contexts[2];
  alarm(SECONDS);
  for (uint32_t threads = 2; threads <= 4; threads++) {
    spw_pool *pool = NULL;
    if (spw_pool_create(threads, NULL, &pool, NULL) != SPW_OK) return 2;
    for (uint32_t job = 0; job < JOBS / threads; job++) {
      counts *now = &contexts[job % 2];
      uint32_t items = 2 + job * 7 % (MOST_ITEMS - 2);
      memset(now, 0, sizeof *now);
      spw_pool_run(pool, count, now, items);
      for (uint32_t i = 0; i < MOST_ITEMS; i++)
        if (atomic_load(&now->items[i]) != (i < items)) {
          fprintf(stderr, "%u threads, job %u of %u items: item %u was computed %u times\n", threads, job, items, i,
                  atomic_load(&now->items[i]));
          return 1;
        }
    }
    spw_pool_free(pool);
  }
  return 0;
}
