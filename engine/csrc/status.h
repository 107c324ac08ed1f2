#ifndef SPW_STATUS_H
#define SPW_STATUS_H

#include "sparrow.h"

/* Writes the sentence where the caller wants one, and hands the status back. */
__attribute__((format(printf, 3, 4))) spw_status spw_fail(spw_error *error, spw_status status,
                                                          const char *format, ...);

#endif
