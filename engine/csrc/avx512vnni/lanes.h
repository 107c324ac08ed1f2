/* Sixteen lanes as one 512-bit register. */
#ifndef SPW_LANES_H
#define SPW_LANES_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define SPW_KERNEL(name) spw_##name##_avx512vnni
#ifndef SPW_INLINE
#define SPW_INLINE static inline __attribute__((always_inline))
#endif
#define SPW_FUNCTION SPW_INLINE

#define SPARSE_PAIRS 1
enum { S8_ROWS = 8, S8_TILES = 3, F32_ROWS = 8, F32_TILES = 3, SPARSE_TILES = 4, SPARSE_F32_TILES = 4 };

typedef __m512 vf;
typedef __m512i vi;
typedef __m512i vx;
typedef __m512i vw;
typedef __m512i vacc;
typedef __m512i vw4;

SPW_INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
SPW_INLINE void vf_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
SPW_INLINE vf vf_set1(float a) { return _mm512_set1_ps(a); }
SPW_INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
SPW_INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
SPW_INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
SPW_INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
SPW_INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
SPW_INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
SPW_INLINE vf vf_sqrt(vf a) { return _mm512_sqrt_ps(a); }
SPW_INLINE vf vf_abs(vf a) { return _mm512_abs_ps(a); }
SPW_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
#define SPW_VF4
typedef __m512 vf4;
SPW_INLINE vf4 vf4_load(const float *p) { return _mm512_broadcast_f32x4(_mm_loadu_ps(p)); }
#define vf4_at(four, i) _mm512_permute_ps((four), (i) * 0x55)
SPW_INLINE vf vf_where_less(vf a, vf b, vf yes, vf no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}

SPW_INLINE vi vi_load(const void *p) { return _mm512_loadu_si512(p); }
SPW_INLINE void vi_store(void *p, vi a) { _mm512_storeu_si512(p, a); }
SPW_INLINE vi vi_set1(int32_t a) { return _mm512_set1_epi32(a); }
SPW_INLINE vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
SPW_INLINE vi vi_sub(vi a, vi b) { return _mm512_sub_epi32(a, b); }
SPW_INLINE vi vi_mul(vi a, vi b) { return _mm512_mullo_epi32(a, b); }
SPW_INLINE vi vi_or(vi a, vi b) { return _mm512_or_si512(a, b); }
SPW_INLINE vi vi_xor(vi a, vi b) { return _mm512_xor_si512(a, b); }
#define vi_shl(a, bits) _mm512_slli_epi32((a), (bits))
#define vi_shr(a, bits) _mm512_srli_epi32((a), (bits))
SPW_INLINE vf vi_to_float(vi a) { return _mm512_cvtepi32_ps(a); }
SPW_INLINE vi vf_to_int(vf a) { return _mm512_cvttps_epi32(a); }
SPW_INLINE vi vf_bits(vf a) { return _mm512_castps_si512(a); }
SPW_INLINE vf vi_as_float(vi a) { return _mm512_castsi512_ps(a); }

/* table[bits & 15] of each lane's bits. */
SPW_INLINE vf vf_lookup16(const float *table, vf bits) {
  return _mm512_permutexvar_ps(_mm512_castps_si512(bits), _mm512_loadu_ps(table));
}

SPW_INLINE vx vx_load(const uint8_t *p) { return _mm512_loadu_si512(p); }
SPW_INLINE vw vw_load(const int8_t *p) {
  int32_t bits;
  memcpy(&bits, p, sizeof bits);
  return _mm512_set1_epi32(bits);
}
SPW_INLINE vw4 vw4_load(const int8_t *p) { return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)p)); }
#define vw4_at(four, i) _mm512_shuffle_epi32((four), (i) * 0x55)
SPW_INLINE vacc vacc_zero(void) { return _mm512_setzero_si512(); }
SPW_INLINE vacc vacc_dot(vacc a, vx x, vw w) { return _mm512_dpbusd_epi32(a, x, w); }
SPW_INLINE vi vacc_sum(vacc a) { return a; }
/* GCC 12 broadcasts the weights by an instruction of its own; without it, more of what follows can start early. */
#define SPW_DOT_AT
SPW_INLINE vacc vacc_dot_at(vacc a, vx x, const int8_t *w) {
  __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(a) : "v"(x), "m"(*(const int32_t *)(const void *)w));
  return a;
}

/* The bound keeps conversions from overflowing upwards; what overflows downwards or is no number becomes INT_MIN,
 * which the saturating packs turn into 0. */
#define SPW_STORE_U8
SPW_INLINE void vf_store_u8(uint8_t *to, const __m512 scaled[4], int32_t zero_point) {
  const __m512 highest = _mm512_set1_ps((float)(255 - zero_point));
  const __m512i zero = _mm512_set1_epi16((int16_t)zero_point);
  const __m512i order = _mm512_broadcast_i32x4(
      _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  __m512i q[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) q[i] = _mm512_cvtps_epi32(_mm512_min_ps(highest, scaled[i]));
  __m512i low = _mm512_add_epi16(_mm512_packs_epi32(q[0], q[1]), zero);
  __m512i high = _mm512_add_epi16(_mm512_packs_epi32(q[2], q[3]), zero);
  _mm512_storeu_si512(to, _mm512_shuffle_epi8(_mm512_packus_epi16(low, high), order));
}

/* Two groups of four channels, transposed to four keys of eight channels at a time, less 128. */
SPW_INLINE void pack_values8(const uint8_t *low, const uint8_t *high, int8_t *to) {
  const __m512i order = _mm512_broadcast_i32x4(
      _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), last = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  const __m512i sign = _mm512_set1_epi8(-128);
  __m512i a = _mm512_xor_si512(_mm512_shuffle_epi8(_mm512_loadu_si512(low), order), sign);
  __m512i b = _mm512_xor_si512(_mm512_shuffle_epi8(_mm512_loadu_si512(high), order), sign);
  _mm512_storeu_si512(to, _mm512_permutex2var_epi64(a, first, b));
  _mm512_storeu_si512(to + 64, _mm512_permutex2var_epi64(a, last, b));
}

#endif
