/* libsparrow: runs a plan file, from plain C.
 *
 * A plan (written by the Python package) is shared and read-only, a pool is a fixed set of threads, and a
 * session is one caller's working memory on a plan. Any number of sessions in any number of threads may use
 * one plan and one pool: runs on one pool take turns. A session does one run at a time.
 *
 * Every function that can fail returns a status and, where `error` isn't NULL, writes a sentence there.
 * Nothing here prints, aborts or exits. Freeing a plan or a pool that sessions still use is safe: the last
 * of them lets go of it. NULL is accepted by the free functions.
 */
#ifndef SPARROW_H
#define SPARROW_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SPW_EXPORT __attribute__((visibility("default")))

typedef enum spw_status {
  SPW_OK = 0,
  SPW_INVALID_ARGUMENT = 1, /* the call itself is wrong: a NULL, a count of zero */
  SPW_INVALID_PLAN = 2,     /* the plan is damaged or of another format version */
  SPW_INVALID_INPUT = 3,    /* an input's value or the shape can't be run by this plan */
  SPW_OUT_OF_MEMORY = 4,
  SPW_IO_ERROR = 5,        /* the plan file can't be opened or read */
  SPW_UNSUPPORTED_ISA = 6, /* unknown instruction set, or one that this CPU lacks */
  SPW_BUSY = 7,            /* the session is already running in another thread */
  SPW_FORKED = 8,          /* the pool's threads stayed in the parent process: create a new pool */
  SPW_THREAD_ERROR = 9     /* the system refused a thread */
} spw_status;

typedef struct spw_error {
  char message[512];
} spw_error;

typedef struct spw_plan spw_plan;
typedef struct spw_pool spw_pool;
typedef struct spw_session spw_session;

typedef enum spw_integer { SPW_INT32 = 0, SPW_INT64 = 1 } spw_integer;

/* One model input: `batch * sequence` integers, row-major. */
typedef struct spw_input {
  const void *data;
  spw_integer type;
} spw_input;

/* What an output holds. Its shape is [batch, sequence, channels] when per_token, else [batch, channels];
 * `channels` 0 means that the last dimension is absent. All outputs are float32. */
typedef struct spw_output_info {
  const char *name;
  uint32_t channels;
  uint32_t per_token;
} spw_output_info;

typedef struct spw_request {
  uint32_t batch;    /* sequences, >= 1 */
  uint32_t sequence; /* tokens in each, >= 1 */
  /* Tokens of each sequence that are computed, 1 to `sequence`, or NULL for all. The outputs of the tokens
   * behind are zero, and no other token attends to them. */
  const int32_t *lengths;
  const spw_input *inputs; /* one for each input of the plan, in its order */
  float *const *outputs;   /* one for each output of the plan, in its order */
} spw_request;

SPW_EXPORT const char *spw_version(void);
SPW_EXPORT const char *spw_status_name(spw_status status);

/* The name of the i-th instruction set of this build, best first; NULL past the end. */
SPW_EXPORT const char *spw_isa_name(uint32_t index);
/* 1 when this build has it and this CPU can run it. */
SPW_EXPORT int spw_isa_supported(const char *name);

/* 1 when this CPU and this system can run plans that hold machine code, which the Python package then writes. */
SPW_EXPORT int spw_code_supported(void);

/* Maps a plan file, read-only, and checks all of it, machine code included. A file that is being run must not be
 * changed in place: replace it by renaming another over it, and open none that somebody else can write. */
SPW_EXPORT spw_status spw_plan_open(const char *path, spw_plan **plan, spw_error *error);
/* The same for a file that the caller has opened for reading, looked at, and closes. */
SPW_EXPORT spw_status spw_plan_open_descriptor(int descriptor, spw_plan **plan, spw_error *error);
/* The same from a copy of `size` bytes. */
SPW_EXPORT spw_status spw_plan_from_memory(const void *bytes, size_t size, spw_plan **plan,
                                           spw_error *error);
SPW_EXPORT void spw_plan_free(spw_plan *plan);
enum { SPW_SOURCE_BYTES = 32 };
/* The SPW_SOURCE_BYTES by which the plan's writer named what it was made from; zeros where it named nothing. */
SPW_EXPORT const uint8_t *spw_plan_source(const spw_plan *plan);
SPW_EXPORT uint32_t spw_plan_input_count(const spw_plan *plan);
SPW_EXPORT const char *spw_plan_input_name(const spw_plan *plan, uint32_t index);
SPW_EXPORT uint32_t spw_plan_output_count(const spw_plan *plan);
SPW_EXPORT spw_status spw_plan_output(const spw_plan *plan, uint32_t index, spw_output_info *info);

/* `threads` >= 1 counts the calling thread. `isa` NULL takes the environment's SPARROW_ISA, and without it
 * the best one that this CPU has. After fork() the child's pools refuse to run (SPW_FORKED). */
SPW_EXPORT spw_status spw_pool_create(uint32_t threads, const char *isa, spw_pool **pool,
                                      spw_error *error);
SPW_EXPORT void spw_pool_free(spw_pool *pool);
SPW_EXPORT uint32_t spw_pool_threads(const spw_pool *pool);
SPW_EXPORT const char *spw_pool_isa(const spw_pool *pool);

SPW_EXPORT spw_status spw_session_create(spw_plan *plan, spw_pool *pool, spw_session **session,
                                         spw_error *error);
SPW_EXPORT void spw_session_free(spw_session *session);
/* Memory grows before a run whose batch or sequence is larger than any before it, and never while one runs.
 * After any error the session can be used again. */
SPW_EXPORT spw_status spw_run(spw_session *session, const spw_request *request, spw_error *error);

/* From the next run on, adds the nanoseconds that each step takes to step_ns[step]; NULL ends it. */
SPW_EXPORT void spw_session_profile(spw_session *session, uint64_t *step_ns);

/* What a step does. A field that means nothing for its kernel is 0; a tile is 16 tokens. */
typedef struct spw_step_info {
  const char *name, *kernel;
  uint32_t k, n, activation; /* linear: input and output channels */
  uint32_t heads, head_dim;  /* attention */
  uint32_t channels, per_batch;
  uint64_t weight_bytes;   /* of a linear layer, as stored: without the blocks that a sparse one leaves out */
  uint64_t constant_bytes; /* read in each run, whatever its tokens */
  uint64_t tile_bytes_read, tile_bytes_written; /* activations */
} spw_step_info;
SPW_EXPORT uint32_t spw_plan_step_count(const spw_plan *plan);
SPW_EXPORT spw_status spw_plan_step(const spw_plan *plan, uint32_t index, spw_step_info *info);

/* What the threads and the instruction set of a pool reach at most, measured in about 100 ms. */
typedef struct spw_peaks {
  double s8_products_per_s, f32_products_per_s; /* multiply-adds of registers */
  double bytes_per_s;                           /* read from memory, past the caches */
} spw_peaks;
SPW_EXPORT spw_status spw_probe(spw_pool *pool, spw_peaks *peaks, spw_error *error);

#ifdef SPARROW_TESTING
/* The n-th allocation from now on fails, n >= 1; 0 ends it. Counts all threads. */
SPW_EXPORT void spw_test_fail_allocation(int64_t n);
SPW_EXPORT int64_t spw_test_live_allocations(void);
#endif

#ifdef __cplusplus
}
#endif
#endif
