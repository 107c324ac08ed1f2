/* pool_stress PLAN: many threads, each with its own session, share one plan and one pool; some share a session
 * and must get SPW_BUSY or the right answer; plan and pool are freed while sessions still hold them. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sparrow.h"

enum { THREADS = 8, RUNS = 25, BATCH = 2, SEQUENCE = 21, VALUES = BATCH * SEQUENCE };

static spw_plan *plan;
static spw_pool *pool;
static spw_session *shared;
static float *expected;
static size_t output_values;
static atomic_int failures;

static size_t values_of(uint32_t output) {
  spw_output_info info;
  spw_plan_output(plan, output, &info);
  return (size_t)(info.per_token ? VALUES : BATCH) * (info.channels ? info.channels : 1);
}

/* Writes all outputs one behind the other into `result`. */
static spw_status run(spw_session *session, float *result) {
  int64_t ids[VALUES];
  uint32_t inputs = spw_plan_input_count(plan);
  spw_input given[8];
  float *results[8];
  for (int i = 0; i < VALUES; i++) ids[i] = i % 3;
  for (uint32_t i = 0; i < inputs; i++) given[i] = (spw_input){ids, SPW_INT64};
  for (uint32_t i = 0; i < spw_plan_output_count(plan); i++) {
    results[i] = result;
    result += values_of(i);
  }
  spw_request request = {BATCH, SEQUENCE, NULL, given, results};
  return spw_run(session, &request, NULL);
}

static void *work(void *argument) {
  spw_session *mine = NULL;
  float *result = malloc(output_values * sizeof *result);
  if (result == NULL || spw_session_create(plan, pool, &mine, NULL) != SPW_OK) exit(2);
  for (int i = 0; i < RUNS; i++) {
    int use_shared = argument != NULL && i % 2;
    spw_status status = run(use_shared ? shared : mine, result);
    if (use_shared && status == SPW_BUSY) continue;
    if (status != SPW_OK || memcmp(result, expected, output_values * sizeof *result) != 0) failures++;
  }
  spw_session_free(mine);
  free(result);
  return NULL;
}

int main(int count, char **arguments) {
  spw_error error;
  if (count != 2 || spw_plan_open(arguments[1], &plan, &error) != SPW_OK) return 2;
  if (spw_pool_create(4, NULL, &pool, &error) != SPW_OK) return 2;
  if (spw_session_create(plan, pool, &shared, &error) != SPW_OK) return 2;
  for (uint32_t i = 0; i < spw_plan_output_count(plan); i++) output_values += values_of(i);
  expected = malloc(output_values * sizeof *expected);
  if (expected == NULL || run(shared, expected) != SPW_OK) return 2;
  pthread_t threads[THREADS];
  for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, work, i % 2 ? &failures : NULL);
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  spw_plan_free(plan); /* the shared session keeps both alive */
  spw_pool_free(pool);
  if (run(shared, expected) != SPW_OK) failures++;
  spw_session_free(shared);
  free(expected);
  if (failures) fprintf(stderr, "%d runs went wrong\n", failures);
  return failures != 0;
}
