/* Plans may hold machine code (codegen.py makes it). It is checked like everything else in a plan: nothing is run but
 * the few instructions that codegen.py writes, on registers and addresses that are a kernel's own. */
#ifndef SPW_CODE_H
#define SPW_CODE_H

#include "plan.h"

/* Whether part `index` of a weight's code is right for `rows` rows and `groups` groups of four channels. */
bool spw_code_is_valid(const uint8_t *content, size_t size, const spw_code_part *parts, uint32_t count, uint32_t index,
                       uint32_t rows, uint32_t groups);

/* Makes a checked plan's constants executable, in a copy where the file's system or the plan's memory doesn't allow
 * it in place. */
spw_status spw_code_enable(spw_plan *plan, spw_error *error);

#endif
