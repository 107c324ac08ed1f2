/* Sixteen lanes in plain C: the reference that every other lanes.h must equal bit by bit. */
#ifndef SPW_LANES_H
#define SPW_LANES_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define SPW_KERNEL(name) spw_##name##_scalar
#ifndef SPW_INLINE
#define SPW_INLINE static inline __attribute__((always_inline))
#endif
#define SPW_FUNCTION static __attribute__((noinline, unused)) /* what is too long to be inlined here */

/* Register blocking of the products: rows times tiles that one inner loop accumulates. */
#define SPARSE_PAIRS 0
enum { S8_ROWS = 4, S8_TILES = 1, F32_ROWS = 4, F32_TILES = 1, SPARSE_TILES = 4, SPARSE_F32_TILES = 4 };

typedef struct { float v[16]; } vf;
typedef struct { int32_t v[16]; } vi;
typedef struct { uint8_t v[64]; } vx; /* 16 tokens times 4 uint8 channels */
typedef struct { int8_t v[4]; } vw;   /* 4 int8 weights, the same for every token */
typedef struct { int32_t v[16]; } vacc;

#define EACH(type, expression)                       \
  do {                                               \
    type r;                                          \
    for (int l = 0; l < 16; l++) r.v[l] = expression; \
    return r;                                        \
  } while (0)

SPW_INLINE vf vf_load(const float *p) { EACH(vf, p[l]); }
SPW_INLINE void vf_store(float *p, vf a) { memcpy(p, a.v, sizeof a.v); }
SPW_INLINE vf vf_set1(float a) { EACH(vf, a); }
SPW_INLINE vf vf_add(vf a, vf b) { EACH(vf, a.v[l] + b.v[l]); }
SPW_INLINE vf vf_sub(vf a, vf b) { EACH(vf, a.v[l] - b.v[l]); }
SPW_INLINE vf vf_mul(vf a, vf b) { EACH(vf, a.v[l] * b.v[l]); }
SPW_INLINE vf vf_div(vf a, vf b) { EACH(vf, a.v[l] / b.v[l]); }
SPW_INLINE vf vf_sqrt(vf a) { EACH(vf, sqrtf(a.v[l])); }
SPW_INLINE vf vf_abs(vf a) { EACH(vf, fabsf(a.v[l])); }
/* b where the two are unordered, as the x86 instructions have it. */
SPW_INLINE vf vf_min(vf a, vf b) { EACH(vf, a.v[l] < b.v[l] ? a.v[l] : b.v[l]); }
SPW_INLINE vf vf_max(vf a, vf b) { EACH(vf, a.v[l] > b.v[l] ? a.v[l] : b.v[l]); }
SPW_INLINE vf vf_where_less(vf a, vf b, vf yes, vf no) { EACH(vf, a.v[l] < b.v[l] ? yes.v[l] : no.v[l]); }

/* a * b + c rounded once. The product is exact in double; the sum is rounded to odd there, so that the
 * second rounding, to float, can't fall on a false tie (Boldo and Melquiond, 2008). */
SPW_INLINE float fused(float a, float b, float c) {
#if defined(FP_FAST_FMAF)
  return fmaf(a, b, c);
#else
  double p = (double)a * b, s = p + c, t = s - p;
  double lost = (p - (s - t)) + (c - t);
  int64_t bits;
  memcpy(&bits, &s, sizeof bits);
  if (lost != 0 && lost == lost && (bits & 1) == 0) bits += (lost > 0) == (s > 0) ? 1 : -1;
  memcpy(&s, &bits, sizeof s);
  return (float)s;
#endif
}
SPW_INLINE vf vf_fma(vf a, vf b, vf c) { EACH(vf, fused(a.v[l], b.v[l], c.v[l])); }

SPW_INLINE vi vi_load(const void *p) {
  vi r;
  memcpy(r.v, p, sizeof r.v);
  return r;
}
SPW_INLINE void vi_store(void *p, vi a) { memcpy(p, a.v, sizeof a.v); }
SPW_INLINE vi vi_set1(int32_t a) { EACH(vi, a); }
SPW_INLINE vi vi_add(vi a, vi b) { EACH(vi, (int32_t)((uint32_t)a.v[l] + (uint32_t)b.v[l])); }
SPW_INLINE vi vi_sub(vi a, vi b) { EACH(vi, (int32_t)((uint32_t)a.v[l] - (uint32_t)b.v[l])); }
SPW_INLINE vi vi_mul(vi a, vi b) { EACH(vi, (int32_t)((uint32_t)a.v[l] * (uint32_t)b.v[l])); }
SPW_INLINE vi vi_or(vi a, vi b) { EACH(vi, a.v[l] | b.v[l]); }
SPW_INLINE vi vi_xor(vi a, vi b) { EACH(vi, a.v[l] ^ b.v[l]); }
#define vi_shl(a, bits) vi_mul((a), vi_set1((int32_t)(1u << (bits))))
/* Fills with zeros from the left. */
SPW_INLINE vi vi_shr(vi a, int bits) { EACH(vi, (int32_t)((uint32_t)a.v[l] >> bits)); }
SPW_INLINE vf vi_to_float(vi a) { EACH(vf, (float)a.v[l]); }
/* a is integral and fits, or NaN, which becomes what x86 makes of it. */
SPW_INLINE vi vf_to_int(vf a) { EACH(vi, a.v[l] == a.v[l] ? (int32_t)a.v[l] : INT32_MIN); }
SPW_INLINE vi vf_bits(vf a) {
  vi r;
  memcpy(r.v, a.v, sizeof r.v);
  return r;
}
SPW_INLINE vf vi_as_float(vi a) {
  vf r;
  memcpy(r.v, a.v, sizeof r.v);
  return r;
}

/* table[bits & 15] of each lane's bits. */
SPW_INLINE vf vf_lookup16(const float *table, vf bits) {
  vf r;
  for (int l = 0; l < 16; l++) {
    uint32_t index;
    memcpy(&index, &bits.v[l], sizeof index);
    r.v[l] = table[index & 15];
  }
  return r;
}

SPW_INLINE vx vx_load(const uint8_t *p) {
  vx r;
  memcpy(r.v, p, sizeof r.v);
  return r;
}
SPW_INLINE vw vw_load(const int8_t *p) {
  vw r;
  memcpy(r.v, p, sizeof r.v);
  return r;
}
typedef const int8_t *vw4;
SPW_INLINE vw4 vw4_load(const int8_t *p) { return p; }
SPW_INLINE vw vw4_at(vw4 four, int i) { return vw_load(four + 4 * i); }
SPW_INLINE vacc vacc_zero(void) { EACH(vacc, 0); }
/* Per lane: the accumulator plus the exact sum of the four products. */
SPW_INLINE vacc vacc_dot(vacc a, vx x, vw w) {
  for (int l = 0; l < 16; l++)
    for (int c = 0; c < 4; c++) a.v[l] = (int32_t)((uint32_t)a.v[l] + (uint32_t)(x.v[l * 4 + c] * w.v[c]));
  return a;
}
SPW_INLINE vi vacc_sum(vacc a) { EACH(vi, a.v[l]); }

/* Two groups of four channels, transposed to four keys of eight channels at a time, less 128. */
SPW_INLINE void pack_values8(const uint8_t *low, const uint8_t *high, int8_t *to) {
  for (int key = 0; key < 16; key++)
    for (int c = 0; c < 8; c++) {
      const uint8_t *group = c < 4 ? low : high;
      to[key / 4 * 32 + c * 4 + key % 4] = (int8_t)(group[key * 4 + c % 4] - 128);
    }
}

#endif
