/* The pool. Each thread owns an equal run of a job's items, the same share of every job, so that what it wrote in one
 * step it finds in its own caches in the next; when its own are gone, it takes from the others. One atomic word for
 * each thread says which job runs and which of its items is next; items are taken by compare-and-swap. Before a job's
 * fields are written, all these words move to a job number of its own that has no items: so a swap that succeeds
 * proves that the fields read before it belong to the job it took from. A thread without work spins for a moment,
 * because the next step comes within microseconds, then sleeps. */
#include "threads.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "memory.h"
#include "status.h"

enum { SPINS = 4000, NEXT_BITS = 32 };
static const uint32_t CLOSED = UINT32_MAX; /* as the next item: none can be taken */

typedef struct worker {
  _Alignas(64) _Atomic uint64_t next; /* job number << 32 | the first of its items that nobody took */
  spw_pool *pool;
  pthread_t thread;
  uint32_t number;
} worker;

struct spw_pool {
  atomic_int references;
  const spw_kernels *kernels;
  uint32_t threads;
  pid_t owner;
  pthread_mutex_t turn; /* held by the caller whose run it is */

  _Alignas(64) _Atomic uint32_t job; /* its number, written when its items can be taken */
  _Atomic uint32_t items;            /* this and the next two are written while no item can be taken */
  _Atomic(spw_task) task;
  _Atomic(void *) context;
  _Alignas(64) _Atomic uint32_t done; /* items computed */

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

/* Thread `number` owns the items from its first to the next thread's first. */
static uint32_t first_item(const spw_pool *pool, uint32_t items, uint32_t number) {
  return (uint32_t)((uint64_t)items * number / pool->threads);
}

static void finish_item(spw_pool *pool, uint32_t items) {
  if (atomic_fetch_add(&pool->done, 1) + 1 != items || !atomic_load(&pool->caller_sleeps)) return;
  pthread_mutex_lock(&pool->sleep);
  pthread_cond_signal(&pool->finished);
  pthread_mutex_unlock(&pool->sleep);
}

/* Takes and computes items of `job` that belong to `owner`; returns whether the job may have more elsewhere. */
static bool take_items_of(spw_pool *pool, uint32_t job, uint32_t owner, uint32_t number) {
  _Atomic uint64_t *next = &pool->workers[owner].next;
  uint64_t state = atomic_load(next);
  for (;;) {
    spw_task task = atomic_load(&pool->task);
    void *context = atomic_load(&pool->context);
    uint32_t items = atomic_load(&pool->items);
    if (job_of(state) != job) return false;
    if (item_of(state) >= first_item(pool, items, owner + 1)) return true;
    if (!atomic_compare_exchange_weak(next, &state, state + 1)) continue;
    task(context, item_of(state), number);
    finish_item(pool, items);
    state = atomic_load(next);
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

static void await_items(spw_pool *pool, uint32_t items) {
  for (int i = 0; i < SPINS; i++) {
    if (atomic_load(&pool->done) == items) return;
    pause_cpu();
  }
  pthread_mutex_lock(&pool->sleep);
  atomic_store(&pool->caller_sleeps, 1);
  while (atomic_load(&pool->done) != items) pthread_cond_wait(&pool->finished, &pool->sleep);
  atomic_store(&pool->caller_sleeps, 0);
  pthread_mutex_unlock(&pool->sleep);
}

void spw_pool_run(spw_pool *pool, spw_task task, void *context, uint32_t items) {
  if (pool->threads == 1 || items <= 1) {
    for (uint32_t i = 0; i < items; i++) task(context, i, 0);
    return;
  }
  uint32_t job = atomic_load(&pool->job) + 2; /* may wrap around */
  for (uint32_t i = 0; i < pool->threads; i++)
    atomic_store(&pool->workers[i].next, state_of(job - 1, CLOSED));
  atomic_store(&pool->task, task);
  atomic_store(&pool->context, context);
  atomic_store(&pool->items, items);
  atomic_store(&pool->done, 0);
  for (uint32_t i = 0; i < pool->threads; i++)
    atomic_store(&pool->workers[i].next, state_of(job, first_item(pool, items, i)));
  atomic_store(&pool->job, job);
  if (atomic_load(&pool->sleepers) > 0) {
    pthread_mutex_lock(&pool->sleep);
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->sleep);
  }
  take_items(pool, job, 0);
  await_items(pool, items);
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
