#include "kernels.h"

#include <string.h>

#include "cpu.h"
#include "sparrow.h"

#define ISA scalar
#include "kernel_table.def"
#if defined(__x86_64__)
#define ISA avx2
#include "kernel_table.def"
#define ISA avxvnni
#include "kernel_table.def"
#define ISA avx512vnni
#define RUNS_CODE
#include "kernel_table.def"
#elif defined(__aarch64__)
#define ISA neon
#include "kernel_table.def"
#endif

/* Best first. */
static const spw_kernels *const all_kernels[] = {
#if defined(__x86_64__)
    &avx512vnni_kernels,
    &avxvnni_kernels,
    &avx2_kernels,
#elif defined(__aarch64__)
    &neon_kernels,
#endif
    &scalar_kernels,
};
enum { ISA_COUNT = sizeof all_kernels / sizeof *all_kernels };

static bool runs_here(const char *isa) {
#if defined(__x86_64__)
  if (strcmp(isa, "avx512vnni") == 0) return spw_cpu_detect().avx512vnni;
  if (strcmp(isa, "avxvnni") == 0) return spw_cpu_detect().avxvnni;
  if (strcmp(isa, "avx2") == 0) return spw_cpu_detect().avx2;
#elif defined(__aarch64__)
  if (strcmp(isa, "neon") == 0) return spw_cpu_detect().neon;
#endif
  return true;
}

const spw_kernels *spw_kernels_find(const char *isa) {
  for (size_t i = 0; i < ISA_COUNT; i++) {
    const char *name = all_kernels[i]->isa;
    if ((isa == NULL || strcmp(isa, name) == 0) && runs_here(name)) return all_kernels[i];
  }
  return NULL;
}

const char *spw_isa_name(uint32_t index) { return index < ISA_COUNT ? all_kernels[index]->isa : NULL; }

int spw_isa_supported(const char *name) { return name != NULL && spw_kernels_find(name) != NULL; }
