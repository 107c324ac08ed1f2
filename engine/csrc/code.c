#include "code.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include "memory.h"
#include "status.h"

/* Instructions as little-endian words; codegen.py says what each is. */
#define WORD_FIND_FURTHER 0x90660824448b48u
#define WORD_START 0x004658487df262u
#define WORD_LOAD 0x00476f487ef162u
#define WORD_PRODUCT 0x004650587df262u
#define WORD_STORE 0x00427f487ef162u
#define WORD_NEXT_GROUPS 0x00004000c78148u
#define WORD_NEXT_VALUES 0x00000400c68148u
#define WORD_PREFETCH 0x0000000091180fu
#define WORD_PREFETCH_FURTHER 0x0000000090180fu
#define WORD_END 0xccccccccccccc3u

enum { WORD = 7, LINE = 64, FIRST_SUM = 1, REACH = 256, MOST_LINES = 1 << 20 };

#define BITS(count, from) (((1ull << (count)) - 1) << (from))
#define DESTINATION (BITS(1, 12) | BITS(1, 15) | BITS(3, 43))
#define DISTANCE BITS(8, 48)
#define ANY_OPERAND (BITS(4, 19) | BITS(1, 27))
#define SECOND (BITS(2, 13) | BITS(3, 40))

static uint64_t word_at(const uint8_t *at) {
  uint64_t word;
  memcpy(&word, at, sizeof word);
  return word & BITS(8 * WORD, 0);
}

static uint32_t destination(uint64_t word) {
  return (uint32_t)((word >> 43 & 7) | (~word >> 15 & 1) << 3 | (~word >> 12 & 1) << 4);
}

/* What `destination` reads from, for register `index`. */
static uint64_t with_destination(uint64_t word, uint32_t index) {
  return word ^ ((uint64_t)(index >> 3 & 1) << 15 | (uint64_t)(index >> 4 & 1) << 12 | (uint64_t)(index & 7) << 43);
}

/* Which of REACH indices around its pointer a word means. */
static uint32_t distance(uint64_t word) { return (uint32_t)((word >> 48) + REACH / 2) % REACH; }

static uint64_t distant(uint32_t index) { return (uint64_t)((index + REACH / 2) % REACH) << 48; }

/* The kinds of finish.py's instructions: what a word of each has, but for the bits that say which registers and which
 * distance. Registers are free, since no address is made of them. */
typedef struct form {
  uint64_t bits, free;
  enum { REGISTERS, FLOAT, FRAME_LINE, RESULT } operand;
} form;

#define ONE_OPERAND (DESTINATION | DISTANCE)
#define TWO_OPERANDS (DESTINATION | ANY_OPERAND | DISTANCE)
#define TWO_REGISTERS ((DESTINATION | SECOND) << 8)
#define THREE_REGISTERS ((DESTINATION | ANY_OPERAND | SECOND) << 8)
static const form forms[] = {
    {0x00425b487cf162, ONE_OPERAND, FRAME_LINE},     /* vcvtdq2ps */
    {0x004259587cf162, TWO_OPERANDS, FLOAT},         /* vmulps */
    {0x004298587df262, TWO_OPERANDS, FLOAT},         /* vfmadd132ps */
    {0x004254587cf162, TWO_OPERANDS, FLOAT},         /* vandps */
    {0x00425d587cf162, TWO_OPERANDS, FLOAT},         /* vminps */
    {0x00425f587cf162, TWO_OPERANDS, FLOAT},         /* vmaxps */
    {0x004258587cf162, TWO_OPERANDS, FLOAT},         /* vaddps */
    {0x00425c587cf162, TWO_OPERANDS, FLOAT},         /* vsubps */
    {0x004216487df262, TWO_OPERANDS, FRAME_LINE},    /* vpermps */
    {0x0042ed487df162, TWO_OPERANDS, FRAME_LINE},    /* vpaddsw */
    {0x004200487df262, TWO_OPERANDS, FRAME_LINE},    /* vpshufb */
    {0x004158487cd162, TWO_OPERANDS, RESULT},        /* vaddps */
    {0x00407f487ed162, ONE_OPERAND, RESULT},         /* vmovdqu32 */
    {0xc0a8487df2622e, THREE_REGISTERS, REGISTERS},  /* vfmadd213ps */
    {0xc05c487cf1622e, THREE_REGISTERS, REGISTERS},  /* vsubps */
    {0xc05b487df1622e, TWO_REGISTERS, REGISTERS},    /* vcvtps2dq */
    {0xc06b487df1622e, THREE_REGISTERS, REGISTERS},  /* vpackssdw */
    {0xc067487df1622e, THREE_REGISTERS, REGISTERS},  /* vpackuswb */
};
_Static_assert(offsetof(spw_code_frame, sums) - offsetof(spw_code_frame, scale) >= 256 &&
                   offsetof(spw_code_frame, sums) >= 512 && sizeof(((spw_code_frame *)NULL)->sums) >= 512,
               "every distance of a byte, counted in floats, stays within the frame");

/* Whether a word is one of `forms`, and reads and writes within the frame and the part's results. */
static bool finishes(uint64_t word, const spw_code_shape *shape) {
  int32_t lines = (int8_t)(word >> 48), above = (int32_t)offsetof(spw_code_frame, sums) / LINE;
  int32_t rows = (int32_t)spw_code_rows(shape->finish), results = spw_code_writes_bytes(shape->finish) ? rows / 4 : rows;
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
    if ((word ^ forms[i].bits) & ~forms[i].free) continue;
    if (forms[i].operand == FRAME_LINE) return lines >= -above && lines < rows;
    return forms[i].operand != RESULT || (lines >= 0 && lines < results);
  }
  return false;
}

/* What a part's instructions so far have passed, used and loaded. */
typedef struct body {
  const spw_code_shape *shape;
  uint32_t rows, groups_passed, values_passed, values, lines, further, stored; /* the last has a bit for each row */
  bool loaded;
} body;

/* The next instruction of a part's body; false where it ends or isn't valid. */
static bool accept(body *b, uint64_t word) {
  uint32_t index = destination(word);
  if ((word & ~(DESTINATION | DISTANCE)) == (WORD_PRODUCT & ~DESTINATION))
    return index >= FIRST_SUM && index - FIRST_SUM < b->rows && b->loaded && !(b->stored >> (index - FIRST_SUM) & 1) &&
           b->values_passed + distance(word) == b->values++;
  if ((word & ~DISTANCE) == WORD_LOAD) {
    b->loaded = true;
    return b->groups_passed + distance(word) < b->shape->groups;
  }
  if ((word & ~(DESTINATION | DISTANCE)) == (WORD_STORE & ~DESTINATION)) {
    uint32_t row = index - FIRST_SUM;
    if (index < FIRST_SUM || row >= b->rows || word >> 48 != row || b->stored >> row & 1) return false;
    b->stored |= 1u << row;
    return true;
  }
  if (word == (WORD_PREFETCH | (uint64_t)b->lines * LINE << 24)) return ++b->lines < MOST_LINES;
  if (word == (WORD_PREFETCH_FURTHER | (uint64_t)b->further * LINE << 24)) return ++b->further <= 2 * b->lines;
  if (word == WORD_NEXT_VALUES) return (b->values_passed += REACH) == b->values;
  if (word == WORD_NEXT_GROUPS) return (b->groups_passed += REACH) < b->shape->groups;
  return b->rows == spw_code_rows(b->shape->finish) && b->shape->finish != SPW_STORED && finishes(word, b->shape);
}

static bool part_is_valid(const uint8_t *content, const spw_code_part *part, size_t limit, uint32_t rows,
                          const spw_code_shape *shape) {
  size_t begin = (size_t)part->code * LINE, end = (size_t)part->start * LINE;
  if (begin > end || end > limit || limit > shape->size || part->values > (limit - end) / 4 ||
      end - begin < ((size_t)2 * rows + 2) * WORD + 1)
    return false;
  const uint8_t *at = content + begin, *last = content + end - sizeof(uint64_t);
  if (word_at(at) != WORD_FIND_FURTHER) return false;
  at += WORD;
  for (uint32_t row = 0; row < rows; row++, at += WORD)
    if (word_at(at) != (with_destination(WORD_START, FIRST_SUM + row) | distant(row))) return false;
  body b = {.shape = shape, .rows = rows, .values = rows};
  while (at <= last && word_at(at) != WORD_END) {
    if (!accept(&b, word_at(at))) return false;
    at += WORD;
  }
  return at <= last && b.stored == BITS(rows, 0) && b.values == part->values && b.lines == part->lines;
}

bool spw_code_is_valid(const uint8_t *content, const spw_code_part *parts, spw_code_shape shape) {
  uint32_t most = spw_code_rows(shape.finish);
  for (uint32_t first = 0; first < shape.rows; first += most, parts++) {
    uint32_t rows = shape.rows - first < most ? shape.rows - first : most;
    size_t limit = first + rows < shape.rows ? (size_t)parts[1].code * LINE : shape.size;
    if (!part_is_valid(content, parts, limit, rows, &shape)) return false;
  }
  return true;
}

static uint8_t *executable_copy(const uint8_t *from, size_t size) {
  uint8_t *copy = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (copy == MAP_FAILED) return NULL;
  madvise(copy, size, MADV_HUGEPAGE);
  memcpy(copy, from, size);
  if (mprotect(copy, size, PROT_READ | PROT_EXEC) == 0) return copy;
  munmap(copy, size);
  return NULL;
}

spw_status spw_code_enable(spw_plan *plan, spw_error *error) {
  if (plan->mapped && mprotect((void *)(uintptr_t)plan->file, plan->size, PROT_READ | PROT_EXEC) == 0) return SPW_OK;
  size_t size = plan->header.constants_size;
  uint8_t *copy = executable_copy(plan->constants, size);
  if (copy == NULL)
    return spw_fail(error, SPW_UNSUPPORTED_ISA,
                    "the plan holds machine code, which this system refuses to run (%s): compile the model again with "
                    "SPARROW_CODE=0 in the environment",
                    strerror(errno));
  plan->constants = plan->code = copy;
  spw_plan_release_file(plan);
  return SPW_OK;
}

int spw_code_supported(void) {
  static const uint8_t nothing[LINE];
  const spw_kernels *kernels = spw_kernels_find("avx512vnni");
  uint8_t *copy = kernels != NULL && kernels->code_s8 != NULL ? executable_copy(nothing, sizeof nothing) : NULL;
  return copy != NULL && munmap(copy, sizeof nothing) == 0;
}
