/* Plans may hold machine code (codegen.py makes it). It is checked like everything else in a plan: nothing is run but
 * the few instructions that codegen.py writes, on registers and addresses that are a kernel's own. */
#ifndef SPW_CODE_H
#define SPW_CODE_H

#include "plan.h"

/* A weight that is code: its rows, its groups of four channels, what it does with its sums, and its bytes. */
typedef struct spw_code_shape {
  uint32_t rows, groups;
  spw_finish finish;
  size_t size;
} spw_code_shape;

/* Whether every part of a weight holds only what the compiler writes, on this layer's own rows and channels. */
bool spw_code_is_valid(const uint8_t *content, const spw_code_part *parts, spw_code_shape shape);

/* Makes a checked plan's constants executable, in a copy where the file's system or the plan's memory doesn't allow
 * it in place. */
spw_status spw_code_enable(spw_plan *plan, spw_error *error);

#endif
