/* Runs a plan on one sequence of token ids:  run_plan model.plan 101 7592 102
 *
 * The first input gets the ids, an input whose name holds "mask" gets ones, every other one zeros. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sparrow.h"

static int report(const char *what, const spw_error *error) {
  fprintf(stderr, "run_plan: %s: %s\n", what, error->message);
  return 1;
}

static void print_output(const spw_output_info *info, const float *values, uint32_t tokens) {
  uint32_t rows = info->per_token ? tokens : 1, columns = info->channels ? info->channels : 1;
  printf("%s\n", info->name);
  for (uint32_t r = 0; r < rows; r++)
    for (uint32_t c = 0; c < columns; c++)
      printf("%.9g%c", (double)values[(size_t)r * columns + c], c + 1 < columns ? ' ' : '\n');
}

static int run(spw_plan *plan, spw_session *session, const int64_t *ids, uint32_t tokens) {
  uint32_t input_count = spw_plan_input_count(plan), output_count = spw_plan_output_count(plan);
  spw_input *inputs = calloc(input_count, sizeof *inputs);
  float **outputs = calloc(output_count, sizeof *outputs);
  int64_t *constants = calloc((size_t)tokens * 2, sizeof *constants); /* zeros, then ones */
  spw_output_info info;
  spw_error error;
  int failed = inputs == NULL || outputs == NULL || constants == NULL;
  for (uint32_t t = 0; !failed && t < tokens; t++) constants[tokens + t] = 1;
  for (uint32_t i = 0; !failed && i < input_count; i++) {
    int is_mask = strstr(spw_plan_input_name(plan, i), "mask") != NULL;
    inputs[i] = (spw_input){i == 0 ? ids : constants + (is_mask ? tokens : 0), SPW_INT64};
  }
  for (uint32_t i = 0; !failed && i < output_count; i++) {
    spw_plan_output(plan, i, &info);
    size_t columns = info.channels ? info.channels : 1;
    outputs[i] = malloc(tokens * columns * sizeof(float));
    failed = outputs[i] == NULL;
  }
  if (failed) {
    fprintf(stderr, "run_plan: out of memory\n");
  } else {
    spw_request request = {1, tokens, NULL, inputs, outputs};
    if (spw_run(session, &request, &error) != SPW_OK) failed = report("run", &error);
    for (uint32_t i = 0; !failed && i < output_count; i++) {
      spw_plan_output(plan, i, &info);
      print_output(&info, outputs[i], tokens);
    }
  }
  for (uint32_t i = 0; outputs != NULL && i < output_count; i++) free(outputs[i]);
  free(outputs);
  free(inputs);
  free(constants);
  return failed;
}

int main(int count, char **arguments) {
  if (count < 3) {
    fprintf(stderr, "usage: run_plan PLAN ID...\n");
    return 2;
  }
  uint32_t tokens = (uint32_t)count - 2;
  int64_t *ids = calloc(tokens, sizeof *ids);
  for (uint32_t t = 0; ids != NULL && t < tokens; t++) ids[t] = strtoll(arguments[t + 2], NULL, 10);

  spw_error error;
  spw_plan *plan = NULL;
  spw_pool *pool = NULL;
  spw_session *session = NULL;
  int failed;
  if (ids == NULL) {
    fprintf(stderr, "run_plan: out of memory\n");
    failed = 1;
  } else if (spw_plan_open(arguments[1], &plan, &error) != SPW_OK) {
    failed = report("plan", &error);
  } else if (spw_pool_create(1, NULL, &pool, &error) != SPW_OK) {
    failed = report("pool", &error);
  } else if (spw_session_create(plan, pool, &session, &error) != SPW_OK) {
    failed = report("session", &error);
  } else {
    failed = run(plan, session, ids, tokens);
  }
  spw_session_free(session);
  spw_pool_free(pool);
  spw_plan_free(plan);
  free(ids);
  return failed;
}
