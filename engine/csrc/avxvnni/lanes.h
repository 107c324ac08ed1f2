/* Sixteen lanes as two 256-bit registers, with the dot product of AVX-VNNI. */
#ifndef SPW_AVXVNNI_LANES_H
#define SPW_AVXVNNI_LANES_H

#define SPW_KERNEL(name) spw_##name##_avxvnni
#define SPW_OWN_DOT
#include "../avx2/lanes.h"

#define SPARSE_PAIRS 0
enum { S8_ROWS = 4, S8_TILES = 1, F32_ROWS = 4, F32_TILES = 1, SPARSE_TILES = 4, SPARSE_F32_TILES = 4 };

typedef vi vx;
typedef __m256i vw;
typedef vi vacc;
typedef const int8_t *vw4;

/* A test build encodes it as AVX-512 does, so that CPUs run it that have the one but not the other. */
#if defined(__AVXVNNI__)
#define dot_256 _mm256_dpbusd_avx_epi32
#else
#define dot_256 _mm256_dpbusd_epi32
#endif

SPW_INLINE vx vx_load(const uint8_t *p) { return vi_load(p); }
SPW_INLINE vw vw_load(const int8_t *p) {
  int32_t bits;
  memcpy(&bits, p, sizeof bits);
  return _mm256_set1_epi32(bits);
}
SPW_INLINE vw4 vw4_load(const int8_t *p) { return p; }
SPW_INLINE vw vw4_at(vw4 four, int i) { return vw_load(four + 4 * i); }
SPW_INLINE vacc vacc_zero(void) { return vi_set1(0); }
SPW_INLINE vacc vacc_dot(vacc a, vx x, vw w) { return (vacc){dot_256(a.lo, x.lo, w), dot_256(a.hi, x.hi, w)}; }
SPW_INLINE vi vacc_sum(vacc a) { return a; }

#endif
