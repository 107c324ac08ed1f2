/* The plan's file format, and the checked plan that execute.c runs.
 *
 *   header | inputs | buffers | steps | strings | constants
 *
 * All little-endian and naturally aligned; sections follow each other in this order, constants start at a
 * multiple of 64 and each of them too. The checksum covers every byte behind the header's `checksum` field.
 */
#ifndef SPW_PLAN_H
#define SPW_PLAN_H

#include <stdatomic.h>
#include <stdbool.h>

#include "kernels.h"
#include "sparrow.h"

#define SPW_MAGIC "SPWPLAN\0"
enum {
  SPW_FORMAT_VERSION = 7,
  SPW_BYTE_ORDER = 0x01020304,
  SPW_ABSENT = 0xffffffff, /* a buffer or input that a step doesn't have */
  SPW_MAX_CHANNELS = 1 << 20,
  SPW_MAX_COUNT = 1 << 14, /* inputs, buffers, steps: pairs of buffers are compared */
  SPW_MAX_HEADS = 4096,    /* so that the items of a step, heads by tiles, fit 32 bits */
  SPW_MAX_PRODUCTS = 66311 /* K with K * 255 * 127 < 2^31: no int32 sum overflows */
};

typedef struct spw_file_header {
  char magic[8];
  uint64_t checksum;
  uint32_t byte_order, version;
  uint64_t file_size;
  uint32_t input_count, buffer_count, step_count, reserved;
  uint64_t inputs, buffers, steps, strings, strings_size, constants, constants_size;
  uint64_t arena_per_tile; /* bytes of activations for each tile of 16 tokens */
  uint8_t source[SPW_SOURCE_BYTES]; /* the writer's digest of what it was made from; not interpreted here */
} spw_file_header;
_Static_assert(sizeof(spw_file_header) == 144, "the writer packs 144 bytes");

typedef struct spw_file_input {
  uint32_t name; /* offset into the strings, each ending in a zero byte */
} spw_file_input;

typedef struct spw_file_buffer {
  uint32_t name, channels, is_u8, per_batch;
  uint64_t offset; /* bytes in front of it in each tile of the arena */
} spw_file_buffer;
_Static_assert(sizeof(spw_file_buffer) == 24, "the writer packs 24 bytes");

/* Files hold these numbers: a new one goes to the end. */
typedef enum spw_op {
  SPW_EMBED,
  SPW_LAYERNORM,
  SPW_QUANTIZE,
  SPW_LINEAR_F32,
  SPW_LINEAR_U8,
  SPW_SPARSE_U8,
  SPW_ATTENTION_F32,
  SPW_ATTENTION_U8,
  SPW_ADD,
  SPW_ACTIVATE,
  SPW_SELECT,
  SPW_OUTPUT,
  SPW_DEQUANTIZE,
  SPW_SPARSE_F32,
  SPW_CODE_U8,
  SPW_QUANTIZE_TOKENS,
  SPW_RESCALE,
  SPW_OP_COUNT
} spw_op;

typedef struct spw_file_blob {
  uint64_t offset, size; /* bytes, from the constants' start */
} spw_file_blob;

/* What in, out, attributes, scalars and blobs mean for each op stands in steps.h. */
typedef struct spw_file_step {
  uint32_t op, name;
  uint32_t in[4], out[2];
  uint32_t attributes[20];
  float scalars[12];
  spw_file_blob blobs[6];
} spw_file_step;
_Static_assert(sizeof(spw_file_step) == 256, "the writer packs 256 bytes");

typedef struct spw_output {
  const spw_file_step *step;
  spw_output_info info;
} spw_output;

struct spw_plan {
  atomic_int references;
  const uint8_t *file; /* mapped, or a copy; NULL where `code` holds all that is still needed of it */
  size_t size;
  bool mapped;
  spw_file_header header;
  uint8_t *records; /* a private copy of the file up to the constants: what was checked can't change */
  const spw_file_input *inputs;
  const spw_file_buffer *buffers;
  const spw_file_step *steps;
  const char *strings;
  const uint8_t *constants;
  uint8_t *code; /* the constants' copy where they couldn't be run in place */
  spw_output *outputs;
  uint32_t output_count;
  uint32_t position_limit; /* most tokens of a sequence that every position table holds */
  bool has_sparse, has_code;
  uint32_t max_f32_attention, max_u8_head; /* for the scratch */
};

size_t spw_buffer_tile_bytes(const spw_file_buffer *buffer);
/* From a tile of all buffers to the next. */
size_t spw_tile_stride(const spw_plan *plan);
spw_status spw_plan_check(spw_plan *plan, spw_error *error);
spw_status spw_steps_check(spw_plan *plan, spw_error *error);
void spw_plan_retain(spw_plan *plan);
void spw_plan_release_file(spw_plan *plan);

static inline const void *spw_blob(const spw_plan *plan, const spw_file_step *step, uint32_t index) {
  return plan->constants + step->blobs[index].offset;
}
static inline const char *spw_string(const spw_plan *plan, uint32_t offset) { return plan->strings + offset; }

#endif
