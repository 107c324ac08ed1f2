#include "kernels.h"

#include <string.h>

#include "cpu.h"
#include "sparrow.h"

#define DECLARE(name, arguments, isa) void spw_##name##_##isa arguments;
#define DECLARE_PROBES(isa)                            \
  uint64_t spw_probe_s8_##isa(uint32_t, uint32_t *); \
  uint64_t spw_probe_f32_##isa(uint32_t, uint32_t *);
#define PROBES(isa) spw_probe_s8_##isa, spw_probe_f32_##isa

#define KERNEL(name, arguments) DECLARE(name, arguments, scalar)
#include "kernels.def"
#undef KERNEL
DECLARE_PROBES(scalar)
static const spw_kernels scalar_kernels = {
    "scalar",
#define KERNEL(name, arguments) spw_##name##_scalar,
#include "kernels.def"
#undef KERNEL
    PROBES(scalar),
};

#if defined(__x86_64__)
#define KERNEL(name, arguments) \
  DECLARE(name, arguments, avx2) DECLARE(name, arguments, avxvnni) DECLARE(name, arguments, avx512vnni)
#include "kernels.def"
#undef KERNEL
DECLARE_PROBES(avx2)
DECLARE_PROBES(avxvnni)
DECLARE_PROBES(avx512vnni)
static const spw_kernels avx2_kernels = {
    "avx2",
#define KERNEL(name, arguments) spw_##name##_avx2,
#include "kernels.def"
#undef KERNEL
    PROBES(avx2),
};
static const spw_kernels avxvnni_kernels = {
    "avxvnni",
#define KERNEL(name, arguments) spw_##name##_avxvnni,
#include "kernels.def"
#undef KERNEL
    PROBES(avxvnni),
};
static const spw_kernels avx512vnni_kernels = {
    "avx512vnni",
#define KERNEL(name, arguments) spw_##name##_avx512vnni,
#include "kernels.def"
#undef KERNEL
    PROBES(avx512vnni),
};
#elif defined(__aarch64__)
#define KERNEL(name, arguments) DECLARE(name, arguments, neon)
#include "kernels.def"
#undef KERNEL
DECLARE_PROBES(neon)
static const spw_kernels neon_kernels = {
    "neon",
#define KERNEL(name, arguments) spw_##name##_neon,
#include "kernels.def"
#undef KERNEL
    PROBES(neon),
};
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
