/* hostile_plans PLAN: changes a valid plan in every way below, and exits 0 when each try was either refused as
 * an invalid plan or, where the checksum was put right, ran without touching memory that isn't its own (which
 * the sanitizers watch). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plan.h"
#include "sparrow.h"

static uint8_t *original;
static size_t size;

static spw_pool *pool;

/* The formula of plan.c, so that a changed plan passes the checksum and meets the other checks. */
static void put_checksum_right(uint8_t *bytes, size_t count) {
  uint64_t sum = 0;
  for (size_t i = 0; i < (count - 16) / 8; i++) {
    uint64_t word;
    memcpy(&word, bytes + 16 + i * 8, 8);
    word += i * 0x9e3779b97f4a7c15u;
    word ^= word >> 32;
    word *= 0xd6e8feb86659fd93u;
    sum += word ^ (word >> 29);
  }
  memcpy(bytes + 8, &sum, 8);
}

static void run(spw_plan *plan) {
  enum { BATCH = 2, SEQUENCE = 3 };
  uint32_t inputs = spw_plan_input_count(plan), outputs = spw_plan_output_count(plan);
  int64_t ids[BATCH * SEQUENCE] = {0, 1, 2, 1, 0, 1};
  spw_input *given = calloc(inputs, sizeof *given);
  float **results = calloc(outputs, sizeof *results);
  spw_session *session = NULL;
  for (uint32_t i = 0; i < inputs; i++) given[i] = (spw_input){ids, SPW_INT64};
  for (uint32_t i = 0; i < outputs; i++) {
    spw_output_info info;
    spw_plan_output(plan, i, &info);
    results[i] = malloc((size_t)BATCH * SEQUENCE * (info.channels ? info.channels : 1) * sizeof(float));
  }
  spw_request request = {BATCH, SEQUENCE, NULL, given, results};
  if (spw_session_create(plan, pool, &session, NULL) == SPW_OK) spw_run(session, &request, NULL);
  spw_session_free(session);
  for (uint32_t i = 0; i < outputs; i++) free(results[i]);
  free(results);
  free(given);
}

/* Loads exactly `count` bytes; runs the plan if it is accepted. */
static spw_status attempt(const uint8_t *bytes, size_t count) {
  spw_error error = {""};
  spw_plan *plan = NULL;
  spw_status status = spw_plan_from_memory(bytes, count, &plan, &error);
  if (status == SPW_OK) run(plan);
  if (status != SPW_OK && error.message[0] == 0) exit(3);
  spw_plan_free(plan);
  return status;
}

static void fail(const char *what, size_t at, spw_status status) {
  fprintf(stderr, "%s at byte %zu: %s\n", what, at, spw_status_name(status));
  exit(1);
}

static void read_file(const char *path) {
  FILE *file = fopen(path, "rb");
  if (file == NULL || fseek(file, 0, SEEK_END) != 0) exit(2);
  size = (size_t)ftell(file);
  rewind(file);
  original = malloc(size);
  if (original == NULL || fread(original, 1, size, file) != size) exit(2);
  fclose(file);
}

/* Writes `value` over a 32-bit word of a plan whose checksum is right, then restores the word. */
static void change_word(uint8_t *bytes, size_t at, uint32_t value) {
  memcpy(bytes + at, &value, 4);
  put_checksum_right(bytes, size);
  spw_status status = attempt(bytes, size);
  if (status != SPW_OK && status != SPW_INVALID_PLAN && status != SPW_OUT_OF_MEMORY) fail("word", at, status);
  memcpy(bytes + at, original + at, 4);
}

int main(int count, char **arguments) {
  if (count != 2) return 2;
  read_file(arguments[1]);
  if (spw_pool_create(2, NULL, &pool, NULL) != SPW_OK) return 2;
  if (attempt(original, size) != SPW_OK) fail("the valid plan", 0, SPW_INVALID_PLAN);
  for (size_t cut = 0; cut < size; cut += 64) {
    spw_status status = attempt(original, cut);
    if (status != SPW_INVALID_PLAN) fail("truncated", cut, status);
  }
  uint8_t *bytes = malloc(size);
  memcpy(bytes, original, size);
  for (size_t bit = 0; bit < size * 8; bit++) {
    bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    spw_status status = attempt(bytes, size);
    if (status != SPW_INVALID_PLAN) fail("flipped bit", bit / 8, status);
    bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
  }
  spw_file_header header;
  memcpy(&header, original, sizeof header);
  for (size_t at = 16; at + 4 <= header.constants; at += 4) {
    uint32_t word;
    memcpy(&word, original + at, 4);
    const uint32_t values[] = {0, 1, 0xffffffff, 0x7fffffff, 0x80000000, word + 1, word + 64, 17};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) change_word(bytes, at, values[i]);
  }
  for (size_t at = header.constants; at + 4 <= size; at += 4) {
    uint32_t word;
    memcpy(&word, original + at, 4);
    change_word(bytes, at, 0xffffffff);
    change_word(bytes, at, word ^ 1u << at / 4 % 32);
  }
  spw_pool_free(pool);
  free(bytes);
  free(original);
  return 0;
}
