/* The pool. Each thread owns an equal run of each stage's items, the same share in all, so that what it wrote in one stage
 * it finds in its own caches in the next; when its own are gone, it takes from the others. One atomic word for each share
 * says which job runs and which of the share's items is next, counted through the stages; items are taken by
 * compare-and-swap. Before a job's fields are written, all these words move to a job number of its own that has no items:
 * so a swap that succeeds proves that the fields read before it belong to the job it took from. A thread without work
 * spins for a moment, because more comes within microseconds, then sleeps. */
#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "memory.h"
#include "status.h"

enum { SPINS = 4000, SHORT_SPINS = 100, NEXT_BITS = 32 };
static const uint32_t CLOSED = UINT32_MAX; /* as the next item: none can be taken */

typedef struct worker {
  _Alignas(64) _Atomic uint64_t next; /* job number << 32 | the first of its share's items that nobody took */
  _Alignas(64) _Atomic uint32_t done; /* items of the share that are computed */
  _Atomic uint32_t items;             /* and how many it has in all stages */
  spw_pool *pool;
  pthread_t thread;
  uint32_t number;
} worker;

/* A stage as all threads see it. */
typedef struct stage {
  _Atomic(spw_task) task;
  _Atomic(void *) context;
  _Atomic uint32_t items;
} stage;

struct spw_pool {
  atomic_int references;
  const spw_kernels *kernels;
  uint32_t threads;
  pid_t owner;
  pthread_mutex_t turn; /* held by the caller whose run it is */

  _Alignas(64) _Atomic uint32_t job; /* its number, written when its items can be taken */
  _Atomic uint32_t stage_count;      /* this and the stages are written while no item can be taken */
  stage stages[SPW_MAX_STAGES];
  _Alignas(64) _Atomic uint32_t open; /* shares that have items left to compute */

  _Alignas(64) pthread_mutex_t sleep; /* guards the two conditions */
  pthread_cond_t work, finished;
  atomic_int sleepers, caller_sleeps, stop;
  worker workers[];
};

static void pause_cpu(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static uint32_t job_of(uint64_t state) { return (uint32_t)(state >> NEXT_BITS); }
static uint64_t state_of(uint32_t job, uint32_t item) { return (uint64_t)job << NEXT_BITS | item; }
static uint32_t item_of(uint64_t state) { return (uint32_t)state; }

/* Share `number` has a stage's items from its first to the next share's first. */
static uint32_t first_item(const spw_pool *pool, uint32_t items, uint32_t number) {
  return (uint32_t)((uint64_t)items * number / pool->threads);
}

static uint32_t own_items(const spw_pool *pool, uint32_t items, uint32_t share) {
  return first_item(pool, items, share + 1) - first_item(pool, items, share);
}

/* An item of a share: its stage's task, its number there, and how many of the share come in the stages before. */
typedef struct place {
  spw_task task;
  void *context;
  uint32_t item, before;
} place;

/* Finds the share's item `index`; false where the share has fewer. */
static bool find_place(spw_pool *pool, uint32_t share, uint32_t index, place *found) {
  uint32_t count = atomic_load(&pool->stage_count), before = 0;
  for (uint32_t i = 0; i < count; i++) {
    uint32_t items = atomic_load(&pool->stages[i].items), own = own_items(pool, items, share);
    if (index - before < own) {
      *found = (place){atomic_load(&pool->stages[i].task), atomic_load(&pool->stages[i].context),
                       first_item(pool, items, share) + index - before, before};
      return true;
    }
    before += own;
  }
  return false;
}

static uint32_t share_items(const spw_pool *pool, const spw_stage *stages, uint32_t count, uint32_t share) {
  uint32_t all = 0;
  for (uint32_t i = 0; i < count; i++) all += own_items(pool, stages[i].items, share);
  return all;
}

static void finish_share(spw_pool *pool) {
  if (atomic_fetch_sub(&pool->open, 1) != 1 || !atomic_load(&pool->caller_sleeps)) return;
  pthread_mutex_lock(&pool->sleep);
  pthread_cond_signal(&pool->finished);
  pthread_mutex_unlock(&pool->sleep);
}

/* The thread that computes what the next stage waits for may have lost its processor. */
static void await_turn(uint32_t *tries) {
  if (++*tries < SHORT_SPINS) {
    pause_cpu();
  } else {
    sched_yield();
  }
}

/* Takes and computes items of `job` from a share; returns whether the job may have more elsewhere. */
static bool take_items_of(spw_pool *pool, uint32_t job, uint32_t share, uint32_t number) {
  worker *owner = &pool->workers[share];
  uint32_t tries = 0;
  for (;;) {
    place at;
    uint64_t state = atomic_load(&owner->next);
    uint32_t done = atomic_load(&owner->done), all = atomic_load(&owner->items);
    bool found = find_place(pool, share, item_of(state), &at);
    if (job_of(state) != job) return false;
    if (!found) return true;
    if (done < at.before) {
      await_turn(&tries);
      continue;
    }
    if (!atomic_compare_exchange_weak(&owner->next, &state, state + 1)) continue;
    at.task(at.context, at.item, number);
    tries = 0;
    if (atomic_fetch_add(&owner->done, 1) + 1 == all) finish_share(pool); /* else the next job may have begun */
  }
}

/* Its own first, then those of the threads after it. */
static void take_items(spw_pool *pool, uint32_t job, uint32_t number) {
  for (uint32_t i = 0; i < pool->threads; i++)
    if (!take_items_of(pool, job, (number + i) % pool->threads, number)) return;
}

static void await_job(spw_pool *pool, uint32_t seen) {
  for (int i = 0; i < SPINS; i++) {
    if (atomic_load(&pool->job) != seen || atomic_load(&pool->stop)) return;
    pause_cpu();
  }
  pthread_mutex_lock(&pool->sleep);
  atomic_fetch_add(&pool->sleepers, 1);
  while (atomic_load(&pool->job) == seen && !atomic_load(&pool->stop))
    pthread_cond_wait(&pool->work, &pool->sleep);
  atomic_fetch_sub(&pool->sleepers, 1);
  pthread_mutex_unlock(&pool->sleep);
}

static void *work(void *argument) {
  worker *self = argument;
  spw_pool *pool = self->pool;
  uint32_t seen = 0;
  for (;;) {
    await_job(pool, seen);
    if (atomic_load(&pool->stop)) return NULL;
    seen = atomic_load(&pool->job);
    take_items(pool, seen, self->number);
  }
}

static void await_shares(spw_pool *pool) {
  for (int i = 0; i < SPINS; i++) {
    if (atomic_load(&pool->open) == 0) return;
    pause_cpu();
  }
  pthread_mutex_lock(&pool->sleep);
  atomic_store(&pool->caller_sleeps, 1);
  while (atomic_load(&pool->open) != 0) pthread_cond_wait(&pool->finished, &pool->sleep);
  atomic_store(&pool->caller_sleeps, 0);
  pthread_mutex_unlock(&pool->sleep);
}

static void write_job(spw_pool *pool, const spw_stage *stages, uint32_t count) {
  uint32_t open = 0;
  for (uint32_t i = 0; i < count; i++) {
    atomic_store(&pool->stages[i].task, stages[i].task);
    atomic_store(&pool->stages[i].context, stages[i].context);
    atomic_store(&pool->stages[i].items, stages[i].items);
  }
  atomic_store(&pool->stage_count, count);
  for (uint32_t i = 0; i < pool->threads; i++) {
    uint32_t items = share_items(pool, stages, count, i);
    open += items > 0;
    atomic_store(&pool->workers[i].done, 0);
    atomic_store(&pool->workers[i].items, items);
  }
  atomic_store(&pool->open, open);
}

static void run_alone(const spw_stage *stages, uint32_t count) {
  for (uint32_t i = 0; i < count; i++)
    for (uint32_t item = 0; item < stages[i].items; item++) stages[i].task(stages[i].context, item, 0);
}

void spw_pool_run(spw_pool *pool, const spw_stage *stages, uint32_t count) {
  if (pool->threads == 1 || (count == 1 && stages->items <= 1)) {
    run_alone(stages, count);
    return;
  }
  uint32_t job = atomic_load(&pool->job) + 2; /* may wrap around */
  for (uint32_t i = 0; i < pool->threads; i++)
    atomic_store(&pool->workers[i].next, state_of(job - 1, CLOSED));
  write_job(pool, stages, count);
  for (uint32_t i = 0; i < pool->threads; i++) atomic_store(&pool->workers[i].next, state_of(job, 0));
  atomic_store(&pool->job, job);
  if (atomic_load(&pool->sleepers) > 0) {
    pthread_mutex_lock(&pool->sleep);
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->sleep);
  }
  take_items(pool, job, 0);
  await_shares(pool);
}

spw_status spw_pool_begin(spw_pool *pool, spw_error *error) {
  if (pool->owner != getpid())
    return spw_fail(error, SPW_FORKED, "this process was forked after the pool was created, and its threads "
                                       "stayed in the parent: create a new pool and session");
  pthread_mutex_lock(&pool->turn);
  return SPW_OK;
}

void spw_pool_end(spw_pool *pool) { pthread_mutex_unlock(&pool->turn); }

static void stop_threads(spw_pool *pool, uint32_t started) {
  pthread_mutex_lock(&pool->sleep);
  atomic_store(&pool->stop, 1);
  pthread_cond_broadcast(&pool->work);
  pthread_mutex_unlock(&pool->sleep);
  for (uint32_t i = 1; i < started; i++) pthread_join(pool->workers[i].thread, NULL);
}

static spw_status start_threads(spw_pool *pool, spw_error *error) {
  for (uint32_t i = 1; i < pool->threads; i++) {
    worker *w = &pool->workers[i];
    w->pool = pool;
    w->number = i;
    int refused = pthread_create(&w->thread, NULL, work, w);
    if (refused == 0) continue;
    stop_threads(pool, i);
    return spw_fail(error, SPW_THREAD_ERROR, "the system refused thread %u of %u: %s", i + 1, pool->threads,
                    strerror(refused));
  }
  return SPW_OK;
}

static spw_status find_kernels(const char *isa, const spw_kernels **kernels, spw_error *error) {
  if (isa == NULL) isa = getenv("SPARROW_ISA");
  if (isa != NULL && *isa == 0) isa = NULL;
  *kernels = spw_kernels_find(isa);
  if (*kernels != NULL) return SPW_OK;
  for (uint32_t i = 0; spw_isa_name(i) != NULL; i++)
    if (strcmp(isa, spw_isa_name(i)) == 0)
      return spw_fail(error, SPW_UNSUPPORTED_ISA, "this CPU can't run the instruction set %s", isa);
  return spw_fail(error, SPW_UNSUPPORTED_ISA,
                  "this build has no instruction set \"%.64s\": use scalar, avx2, avxvnni, avx512vnni or neon", isa);
}

static void destroy(spw_pool *pool) {
  pthread_mutex_destroy(&pool->turn);
  pthread_mutex_destroy(&pool->sleep);
  pthread_cond_destroy(&pool->work);
  pthread_cond_destroy(&pool->finished);
  spw_release(pool);
}

spw_status spw_pool_create(uint32_t threads, const char *isa, spw_pool **pool, spw_error *error) {
  if (pool == NULL) return spw_fail(error, SPW_INVALID_ARGUMENT, "pool is NULL");
  *pool = NULL;
  if (threads < 1 || threads > SPW_MAX_THREADS)
    return spw_fail(error, SPW_INVALID_ARGUMENT, "%u threads: a pool has 1 to %d", threads, SPW_MAX_THREADS);
  const spw_kernels *kernels;
  spw_status status = find_kernels(isa, &kernels, error);
  if (status != SPW_OK) return status;
  spw_pool *made = spw_allocate(sizeof *made + threads * sizeof(worker));
  if (made == NULL) return spw_fail(error, SPW_OUT_OF_MEMORY, "no memory for a pool of %u threads", threads);
  atomic_init(&made->references, 1);
  made->kernels = kernels;
  made->threads = threads;
  made->owner = getpid();
  pthread_mutex_init(&made->turn, NULL);
  pthread_mutex_init(&made->sleep, NULL);
  pthread_cond_init(&made->work, NULL);
  pthread_cond_init(&made->finished, NULL);
  status = start_threads(made, error);
  if (status == SPW_OK) {
    *pool = made;
  } else {
    destroy(made);
  }
  return status;
}

void spw_pool_retain(spw_pool *pool) { atomic_fetch_add(&pool->references, 1); }

void spw_pool_free(spw_pool *pool) {
  if (pool == NULL || atomic_fetch_sub(&pool->references, 1) != 1) return;
  if (pool->owner != getpid()) { /* its locks and threads are the parent's */
    spw_release(pool);
    return;
  }
  stop_threads(pool, pool->threads);
  destroy(pool);
}

uint32_t spw_pool_threads(const spw_pool *pool) { return pool ? pool->threads : 0; }
const char *spw_pool_isa(const spw_pool *pool) { return pool ? pool->kernels->isa : NULL; }
const spw_kernels *spw_pool_kernels(const spw_pool *pool) { return pool->kernels; }
