/* A fixed set of threads that compute the items of one job after another. */
#ifndef SPW_THREADS_H
#define SPW_THREADS_H

#include "kernels.h"
#include "sparrow.h"

/* Computes item `item` of a stage on the thread with number `worker`, 0 being the caller. */
typedef void (*spw_task)(void *context, uint32_t item, uint32_t worker);

/* Equal runs of the items are the threads' shares. */
typedef struct spw_stage {
  spw_task task;
  void *context;
  uint32_t items;
} spw_stage;

enum { SPW_MAX_THREADS = 1024, SPW_MAX_STAGES = 16 };

/* One caller owns the pool between begin and end. */
spw_status spw_pool_begin(spw_pool *pool, spw_error *error);
void spw_pool_end(spw_pool *pool);
/* Returns when all items of all stages are computed. A share's items are computed when those of the same share in the
 * stages before are, whatever other shares have come to. */
void spw_pool_run(spw_pool *pool, const spw_stage *stages, uint32_t count);

/* A monotonic clock. */
uint64_t spw_now_ns(void);

void spw_pool_retain(spw_pool *pool);
const spw_kernels *spw_pool_kernels(const spw_pool *pool);

#endif
