#include "status.h"

#include <stdarg.h>
#include <stdio.h>

#ifndef SPW_VERSION
#define SPW_VERSION "0.0.0"
#endif

const char *spw_version(void) { return SPW_VERSION; }

const char *spw_status_name(spw_status status) {
  static const char *const names[] = {"ok",        "invalid argument",        "invalid plan", "invalid input",
                                      "out of memory", "input/output error", "unsupported instruction set",
                                      "busy",      "forked",                  "thread error"};
  size_t index = (size_t)status;
  return index < sizeof names / sizeof *names ? names[index] : "unknown status";
}

spw_status spw_fail(spw_error *error, spw_status status, const char *format, ...) {
  if (error == NULL) return status;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(error->message, sizeof error->message, format, arguments);
  va_end(arguments);
  return status;
}
