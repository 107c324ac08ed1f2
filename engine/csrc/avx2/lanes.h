/* Sixteen lanes as two 256-bit registers. */
#ifndef SPW_LANES_H
#define SPW_LANES_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#ifndef SPW_KERNEL
#define SPW_KERNEL(name) spw_##name##_avx2
#endif
#ifndef SPW_INLINE
#define SPW_INLINE static inline __attribute__((always_inline))
#endif
#define SPW_FUNCTION SPW_INLINE

typedef struct { __m256 lo, hi; } vf;
typedef struct { __m256i lo, hi; } vi;

#define PAIR(type, f) ((type){f(a.lo, b.lo), f(a.hi, b.hi)})

SPW_INLINE vf vf_load(const float *p) { return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
SPW_INLINE void vf_store(float *p, vf a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
SPW_INLINE vf vf_set1(float a) { return (vf){_mm256_set1_ps(a), _mm256_set1_ps(a)}; }
SPW_INLINE vf vf_add(vf a, vf b) { return PAIR(vf, _mm256_add_ps); }
SPW_INLINE vf vf_sub(vf a, vf b) { return PAIR(vf, _mm256_sub_ps); }
SPW_INLINE vf vf_mul(vf a, vf b) { return PAIR(vf, _mm256_mul_ps); }
SPW_INLINE vf vf_div(vf a, vf b) { return PAIR(vf, _mm256_div_ps); }
SPW_INLINE vf vf_min(vf a, vf b) { return PAIR(vf, _mm256_min_ps); }
SPW_INLINE vf vf_max(vf a, vf b) { return PAIR(vf, _mm256_max_ps); }
SPW_INLINE vf vf_sqrt(vf a) { return (vf){_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
SPW_INLINE vf vf_abs(vf a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return (vf){_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
SPW_INLINE vf vf_fma(vf a, vf b, vf c) {
  return (vf){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
SPW_INLINE vf vf_where_less(vf a, vf b, vf yes, vf no) {
  return (vf){_mm256_blendv_ps(no.lo, yes.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
              _mm256_blendv_ps(no.hi, yes.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
}

SPW_INLINE vi vi_load(const void *p) {
  const __m256i *q = p;
  return (vi){_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
SPW_INLINE void vi_store(void *p, vi a) {
  __m256i *q = p;
  _mm256_storeu_si256(q, a.lo);
  _mm256_storeu_si256(q + 1, a.hi);
}
SPW_INLINE vi vi_set1(int32_t a) { return (vi){_mm256_set1_epi32(a), _mm256_set1_epi32(a)}; }
SPW_INLINE vi vi_add(vi a, vi b) { return PAIR(vi, _mm256_add_epi32); }
SPW_INLINE vi vi_sub(vi a, vi b) { return PAIR(vi, _mm256_sub_epi32); }
SPW_INLINE vi vi_mul(vi a, vi b) { return PAIR(vi, _mm256_mullo_epi32); }
SPW_INLINE vi vi_or(vi a, vi b) { return PAIR(vi, _mm256_or_si256); }
SPW_INLINE vi vi_xor(vi a, vi b) { return PAIR(vi, _mm256_xor_si256); }
#define vi_shl(a, bits) ((vi){_mm256_slli_epi32((a).lo, bits), _mm256_slli_epi32((a).hi, bits)})
#define vi_shr(a, bits) ((vi){_mm256_srli_epi32((a).lo, bits), _mm256_srli_epi32((a).hi, bits)})
SPW_INLINE vf vi_to_float(vi a) { return (vf){_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
SPW_INLINE vi vf_to_int(vf a) { return (vi){_mm256_cvttps_epi32(a.lo), _mm256_cvttps_epi32(a.hi)}; }
SPW_INLINE vi vf_bits(vf a) { return (vi){_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
SPW_INLINE vf vi_as_float(vi a) { return (vf){_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }

/* table[bits & 15] of each lane's bits. */
SPW_INLINE __m256 half_lookup16(const float *table, __m256 bits) {
  __m256i index = _mm256_castps_si256(bits);
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(_mm256_loadu_ps(table), index),
                          _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), index),
                          _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}
SPW_INLINE vf vf_lookup16(const float *table, vf bits) {
  return (vf){half_lookup16(table, bits.lo), half_lookup16(table, bits.hi)};
}

/* Two groups of four channels, transposed to four keys of eight channels at a time, less 128. */
SPW_INLINE void pack_values8(const uint8_t *low, const uint8_t *high, int8_t *to) {
  const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  for (int b = 0; b < 4; b++) {
    __m128i lower = _mm_loadu_si128((const __m128i *)(low + b * 16));
    __m128i upper = _mm_loadu_si128((const __m128i *)(high + b * 16));
    __m256i both = _mm256_set_m128i(_mm_shuffle_epi8(upper, order), _mm_shuffle_epi8(lower, order));
    _mm256_storeu_si256((__m256i *)(to + b * 32), _mm256_xor_si256(both, _mm256_set1_epi8(-128)));
  }
}

#ifndef SPW_OWN_DOT
#define SPARSE_PAIRS 0
enum { S8_ROWS = 2, S8_TILES = 1, F32_ROWS = 4, F32_TILES = 1, SPARSE_TILES = 2, SPARSE_F32_TILES = 4 };

typedef struct { __m256i v[4]; } vx; /* v[i]: tokens 4i..4i+3, their 4 channels widened to 16 bits */
typedef __m256i vw;                  /* 4 weights widened to 16 bits, four times */
typedef struct { __m256i v[4]; } vacc; /* as vx, each token as two 32-bit partial sums */

SPW_INLINE vx vx_load(const uint8_t *p) {
  const __m128i *q = (const __m128i *)p;
  return (vx){{_mm256_cvtepu8_epi16(_mm_loadu_si128(q)), _mm256_cvtepu8_epi16(_mm_loadu_si128(q + 1)),
               _mm256_cvtepu8_epi16(_mm_loadu_si128(q + 2)), _mm256_cvtepu8_epi16(_mm_loadu_si128(q + 3))}};
}
SPW_INLINE vw vw_load(const int8_t *p) {
  int32_t bits;
  memcpy(&bits, p, sizeof bits);
  return _mm256_cvtepi8_epi16(_mm_set1_epi32(bits));
}
typedef const int8_t *vw4;
SPW_INLINE vw4 vw4_load(const int8_t *p) { return p; }
SPW_INLINE vw vw4_at(vw4 four, int i) { return vw_load(four + 4 * i); }
SPW_INLINE vacc vacc_zero(void) {
  __m256i zero = _mm256_setzero_si256();
  return (vacc){{zero, zero, zero, zero}};
}
/* vpmaddwd on widened bytes: vpmaddubsw would saturate its 16-bit sums. */
SPW_INLINE vacc vacc_dot(vacc a, vx x, vw w) {
  for (int i = 0; i < 4; i++) a.v[i] = _mm256_add_epi32(a.v[i], _mm256_madd_epi16(x.v[i], w));
  return a;
}
SPW_INLINE vi vacc_sum(vacc a) {
  return (vi){_mm256_permute4x64_epi64(_mm256_hadd_epi32(a.v[0], a.v[1]), 0xd8),
              _mm256_permute4x64_epi64(_mm256_hadd_epi32(a.v[2], a.v[3]), 0xd8)};
}

#endif
#endif
