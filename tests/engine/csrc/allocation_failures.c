/* allocation_failures PLAN: for every n, lets the n-th allocation of open + pool + session + run fail. Each must
 * return a status, leak nothing, and leave the library able to do the same work afterwards. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sparrow.h"

enum { BATCH = 2, SEQUENCE = 19, VALUES = BATCH * SEQUENCE, MOST = 500 };

static spw_status run(spw_plan *plan, spw_session *session) {
  int64_t ids[VALUES] = {0};
  spw_input inputs[8];
  float *outputs[8] = {NULL};
  for (uint32_t i = 0; i < spw_plan_input_count(plan); i++) inputs[i] = (spw_input){ids, SPW_INT64};
  for (uint32_t i = 0; i < spw_plan_output_count(plan); i++) {
    spw_output_info info;
    spw_plan_output(plan, i, &info);
    outputs[i] = malloc(VALUES * sizeof(float) * (info.channels ? info.channels : 1));
  }
  spw_request request = {BATCH, SEQUENCE, NULL, inputs, outputs};
  spw_status status = spw_run(session, &request, NULL);
  for (int i = 0; i < 8; i++) free(outputs[i]);
  return status;
}

/* Runs twice, so that a session whose run failed is used again. */
static spw_status work(const char *path) {
  spw_plan *plan = NULL;
  spw_pool *pool = NULL;
  spw_session *session = NULL;
  spw_status status = spw_plan_open(path, &plan, NULL);
  if (status == SPW_OK) status = spw_pool_create(2, NULL, &pool, NULL);
  if (status == SPW_OK) status = spw_session_create(plan, pool, &session, NULL);
  if (status == SPW_OK) status = run(plan, session);
  if (session != NULL && run(plan, session) != SPW_OK) {
    fprintf(stderr, "the session can't be used after a failed run\n");
    exit(1);
  }
  spw_session_free(session);
  spw_pool_free(pool);
  spw_plan_free(plan);
  return status;
}

int main(int count, char **arguments) {
  if (count != 2) return 2;
  for (int64_t n = 1; n < MOST; n++) {
    spw_test_fail_allocation(n);
    spw_status status = work(arguments[1]);
    spw_test_fail_allocation(0);
    if (spw_test_live_allocations() != 0) return fprintf(stderr, "allocation %d leaks\n", (int)n), 1;
    if (status == SPW_OK) return n > 8 && work(arguments[1]) == SPW_OK ? 0 : 1;
    if (status != SPW_OUT_OF_MEMORY) return fprintf(stderr, "allocation %d: %s\n", (int)n, spw_status_name(status)), 1;
  }
  return 1;
}
