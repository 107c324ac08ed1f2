#include "cpu.h"

#include <stdint.h>

#if defined(__x86_64__)
#include <cpuid.h>

enum { XCR0_AVX = 0x6, XCR0_AVX512 = 0xe6, BIT_AVXVNNI = 1 << 4 };

static uint64_t saved_registers(void) {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t)high << 32 | low;
}

static bool has(uint32_t bits, uint32_t wanted) { return (bits & wanted) == wanted; }

spw_cpu spw_cpu_detect(void) {
  spw_cpu cpu = {.avx2 = false};
  uint32_t eax, ebx, ecx, edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return cpu;
  if (!has(ecx, bit_OSXSAVE | bit_AVX | bit_FMA)) return cpu;
  uint64_t saved = saved_registers();
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return cpu;
  cpu.avx2 = has(ebx, bit_AVX2) && (saved & XCR0_AVX) == XCR0_AVX;
  cpu.avx512vnni = cpu.avx2 && (saved & XCR0_AVX512) == XCR0_AVX512 &&
                   has(ebx, bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL) &&
                   has(ecx, bit_AVX512VNNI);
#if defined(SPARROW_TESTING)
  cpu.avxvnni = cpu.avx512vnni; /* whose encoding a test build's kernels use */
#else
  if (!__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) return cpu;
  cpu.avxvnni = cpu.avx2 && has(eax, BIT_AVXVNNI);
#endif
  return cpu;
}

#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>

spw_cpu spw_cpu_detect(void) { return (spw_cpu){.neon = (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0}; }

#else

spw_cpu spw_cpu_detect(void) { return (spw_cpu){.avx2 = false}; }

#endif
