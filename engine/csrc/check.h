/* What the checks of all steps have in common: a step is refused by its name, for what a plan's writer got wrong. */
#ifndef SPW_CHECK_H
#define SPW_CHECK_H

#include "plan.h"
#include "status.h"
#include "steps.h"

typedef struct check {
  spw_plan *plan;
  const spw_file_step *step;
  uint32_t index;
  uint32_t *written, *read; /* per buffer: the step that writes it, the last that reads it */
  spw_error *error;
} check;

typedef enum kind { F32 = 0, U8 = 1 } kind;

#define REQUIRE(c, condition, ...) \
  do {                             \
    if (!(condition)) return bad((c), __VA_ARGS__); \
  } while (0)
#define TRY(expression)                      \
  do {                                       \
    spw_status status_ = (expression);       \
    if (status_ != SPW_OK) return status_;   \
  } while (0)

static inline spw_status bad(const check *c, const char *what) {
  return spw_fail(c->error, SPW_INVALID_PLAN, "step %u (%.200s): %s", c->index,
                  spw_string(c->plan, c->step->name), what);
}

static inline const spw_file_buffer *buffer(const check *c, uint32_t id) { return &c->plan->buffers[id]; }

static inline spw_status reads(check *c, uint32_t id, kind type, uint32_t channels) {
  REQUIRE(c, id < c->plan->header.buffer_count, "reads a buffer that doesn't exist");
  REQUIRE(c, c->written[id] != SPW_ABSENT, "reads a buffer before it is written");
  REQUIRE(c, buffer(c, id)->is_u8 == (uint32_t)type, "reads a buffer of the wrong type");
  REQUIRE(c, channels == 0 || buffer(c, id)->channels == channels, "reads a buffer of the wrong width");
  c->read[id] = c->index;
  return SPW_OK;
}

static inline spw_status writes(check *c, uint32_t id, kind type, uint32_t channels, uint32_t per_batch) {
  REQUIRE(c, id < c->plan->header.buffer_count, "writes a buffer that doesn't exist");
  REQUIRE(c, c->written[id] == SPW_ABSENT, "writes a buffer that is written already");
  REQUIRE(c, buffer(c, id)->is_u8 == (uint32_t)type, "writes a buffer of the wrong type");
  REQUIRE(c, buffer(c, id)->channels == channels, "writes a buffer of the wrong width");
  REQUIRE(c, buffer(c, id)->per_batch == per_batch, "mixes rows of tokens and of sequences");
  c->written[id] = c->read[id] = c->index;
  return SPW_OK;
}

static inline spw_status blob(const check *c, uint32_t index, uint64_t count, uint64_t item) {
  const spw_file_blob *b = &c->step->blobs[index];
  uint64_t bytes, end;
  REQUIRE(c, !__builtin_mul_overflow(count, item, &bytes) && b->size == bytes, "a constant has the wrong size");
  REQUIRE(c, b->offset % 64 == 0 && !__builtin_add_overflow(b->offset, b->size, &end) &&
                 end <= c->plan->header.constants_size,
          "a constant lies outside the file");
  return SPW_OK;
}

/* Kernels multiply by the reciprocal of a scale: it must be a finite number too. */
static inline bool valid_quantization(float scale, uint32_t zero_point) {
  return scale >= 1.2e-38f && scale <= 3.0e38f && zero_point <= 255;
}

static inline uint64_t round_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

static inline uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }

static inline uint32_t smaller(uint32_t a, uint32_t b) { return a < b ? a : b; }

spw_status spw_check_linear_f32(check *c);
spw_status spw_check_linear_u8(check *c);
spw_status spw_check_sparse_f32(check *c);
spw_status spw_check_sparse_u8(check *c);
spw_status spw_check_code_u8(check *c);

#endif
