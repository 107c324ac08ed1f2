/* A session's memory, and the request that it is running. session.c prepares it, execute.c computes.
 *
 * A large request is computed in groups of whole sequences, one group after the other, so that activations stay in the
 * caches; weights are read once for each group. */
#ifndef SPW_SESSION_H
#define SPW_SESSION_H

#include "plan.h"
#include "threads.h"

struct spw_session {
  spw_plan *plan;
  spw_pool *pool;
  atomic_int running;

  uint8_t *arena, *scratch;
  size_t arena_size, scratch_size, scratch_stride; /* stride: one thread's part */
  uint8_t *tokens;                                 /* everything below lies in this block */
  size_t tokens_size;
  int64_t **inputs;   /* [input][all * sequence] */
  uint32_t *lengths;  /* [all], in tokens */
  uint32_t *rows;     /* [SPW_TABLES][tiles * 16], of the embedding that runs */
  uint8_t *present;   /* [tiles * 16] */
  float *mask;        /* [tiles * 16], of the attention that runs */
  spw_sequence *sequences;
  uint32_t *first_item; /* [batch + 1]: attention items before each sequence */

  uint32_t all, sequence, most_tiles; /* sequences of the request, their padded length, tiles that there is memory for */
  uint32_t first, batch, tiles, batch_tiles; /* the group: its first sequence, how many, their tiles */
  float *const *outputs;
  uint64_t *step_ns; /* NULL: steps are not timed */
};

spw_status spw_session_prepare(spw_session *session, const spw_request *request, spw_error *error);
/* Moves on to the request's next group; false when there is none. */
bool spw_session_next(spw_session *session);
void spw_execute(spw_session *session);

#endif
