/* Sixteen lanes as four 128-bit registers of an Arm CPU with the dot-product extension. */
#ifndef SPW_LANES_H
#define SPW_LANES_H

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#define SPW_KERNEL(name) spw_##name##_neon
#ifndef SPW_INLINE
#define SPW_INLINE static inline __attribute__((always_inline))
#endif
#define SPW_FUNCTION static __attribute__((noinline, unused)) /* what is too long to be inlined here */

#define SPARSE_PAIRS 1
enum { S8_ROWS = 4, S8_TILES = 1, F32_ROWS = 4, F32_TILES = 1, SPARSE_TILES = 2, SPARSE_F32_TILES = 4 };

typedef struct { float32x4_t v[4]; } vf;
typedef struct { int32x4_t v[4]; } vi;
typedef struct { int8x16_t v[4]; } vx; /* 16 tokens times 4 channels, each minus 128 */
typedef int8x16_t vw;                  /* 4 weights, four times */
typedef int8x16_t vw4;                 /* 4 times 4 weights */
/* The dot product takes signed bytes only: `weights` sums each token's weights, of which 128 times is missing. */
typedef struct { int32x4_t v[4], weights; } vacc;

#define MAP1(name, type, from, operation)                                                          \
  SPW_INLINE type name(from a) {                                                                   \
    return (type){{operation(a.v[0]), operation(a.v[1]), operation(a.v[2]), operation(a.v[3])}};   \
  }
#define MAP2(name, type, from, operation)                                                               \
  SPW_INLINE type name(from a, from b) {                                                                \
    return (type){{operation(a.v[0], b.v[0]), operation(a.v[1], b.v[1]), operation(a.v[2], b.v[2]),     \
                   operation(a.v[3], b.v[3])}};                                                         \
  }

SPW_INLINE float32x4_t lesser(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
SPW_INLINE float32x4_t greater(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
SPW_INLINE int32x4_t to_int(float32x4_t a) {
  return vbslq_s32(vceqq_f32(a, a), vcvtq_s32_f32(a), vdupq_n_s32(INT32_MIN));
}

SPW_INLINE vf vf_load(const float *p) {
  return (vf){{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}};
}
SPW_INLINE void vf_store(float *p, vf a) {
  for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, a.v[i]);
}
SPW_INLINE vf vf_set1(float a) {
  float32x4_t all = vdupq_n_f32(a);
  return (vf){{all, all, all, all}};
}
MAP2(vf_add, vf, vf, vaddq_f32)
MAP2(vf_sub, vf, vf, vsubq_f32)
MAP2(vf_mul, vf, vf, vmulq_f32)
MAP2(vf_div, vf, vf, vdivq_f32)
MAP1(vf_sqrt, vf, vf, vsqrtq_f32)
MAP1(vf_abs, vf, vf, vabsq_f32)
/* b where the two are unordered, unlike Arm's own instructions. */
MAP2(vf_min, vf, vf, lesser)
MAP2(vf_max, vf, vf, greater)
SPW_INLINE vf vf_fma(vf a, vf b, vf c) {
  for (int i = 0; i < 4; i++) c.v[i] = vfmaq_f32(c.v[i], a.v[i], b.v[i]);
  return c;
}
SPW_INLINE vf vf_where_less(vf a, vf b, vf yes, vf no) {
  for (int i = 0; i < 4; i++) no.v[i] = vbslq_f32(vcltq_f32(a.v[i], b.v[i]), yes.v[i], no.v[i]);
  return no;
}

SPW_INLINE vi vi_load(const void *p) {
  vi r;
  for (int i = 0; i < 4; i++) r.v[i] = vreinterpretq_s32_u8(vld1q_u8((const uint8_t *)p + 16 * i));
  return r;
}
SPW_INLINE void vi_store(void *p, vi a) {
  for (int i = 0; i < 4; i++) vst1q_u8((uint8_t *)p + 16 * i, vreinterpretq_u8_s32(a.v[i]));
}
SPW_INLINE vi vi_set1(int32_t a) {
  int32x4_t all = vdupq_n_s32(a);
  return (vi){{all, all, all, all}};
}
MAP2(vi_add, vi, vi, vaddq_s32)
MAP2(vi_sub, vi, vi, vsubq_s32)
MAP2(vi_mul, vi, vi, vmulq_s32)
MAP2(vi_or, vi, vi, vorrq_s32)
MAP2(vi_xor, vi, vi, veorq_s32)
SPW_INLINE vi vi_shl(vi a, int bits) {
  for (int i = 0; i < 4; i++) a.v[i] = vshlq_s32(a.v[i], vdupq_n_s32(bits));
  return a;
}
/* Fills with zeros from the left. */
SPW_INLINE vi vi_shr(vi a, int bits) {
  for (int i = 0; i < 4; i++)
    a.v[i] = vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a.v[i]), vdupq_n_s32(-bits)));
  return a;
}
MAP1(vi_to_float, vf, vi, vcvtq_f32_s32)
MAP1(vf_to_int, vi, vf, to_int)
MAP1(vf_bits, vi, vf, vreinterpretq_s32_f32)
MAP1(vi_as_float, vf, vi, vreinterpretq_f32_s32)

/* table[bits & 15] of each lane's bits: four bytes from where those are. */
SPW_INLINE vf vf_lookup16(const float *table, vf bits) {
  const uint8x16x4_t bytes = vld1q_u8_x4((const uint8_t *)table);
  vf r;
  for (int i = 0; i < 4; i++) {
    uint32x4_t entry = vandq_u32(vreinterpretq_u32_f32(bits.v[i]), vdupq_n_u32(15));
    uint32x4_t places = vmlaq_n_u32(vdupq_n_u32(0x03020100u), entry, 0x04040404u);
    r.v[i] = vreinterpretq_f32_u8(vqtbl4q_u8(bytes, vreinterpretq_u8_u32(places)));
  }
  return r;
}

SPW_INLINE vx vx_load(const uint8_t *p) {
  vx r;
  for (int i = 0; i < 4; i++) r.v[i] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(p + 16 * i), vdupq_n_u8(128)));
  return r;
}
SPW_INLINE vw vw_load(const int8_t *p) {
  int32_t bits;
  memcpy(&bits, p, sizeof bits);
  return vreinterpretq_s8_s32(vdupq_n_s32(bits));
}
SPW_INLINE vw4 vw4_load(const int8_t *p) { return vld1q_s8(p); }
SPW_INLINE vw vw4_at(vw4 four, int i) {
  return vqtbl1q_s8(four, vreinterpretq_u8_s32(vdupq_n_s32(0x03020100 + 0x04040404 * i)));
}
SPW_INLINE vacc vacc_zero(void) {
  int32x4_t zero = vdupq_n_s32(0);
  return (vacc){{zero, zero, zero, zero}, zero};
}
SPW_INLINE vacc vacc_dot(vacc a, vx x, vw w) {
  for (int i = 0; i < 4; i++) a.v[i] = vdotq_s32(a.v[i], x.v[i], w);
  a.weights = vdotq_s32(a.weights, w, vdupq_n_s8(1));
  return a;
}
SPW_INLINE vi vacc_sum(vacc a) {
  int32x4_t missing = vshlq_n_s32(a.weights, 7);
  vi r;
  for (int i = 0; i < 4; i++) r.v[i] = vaddq_s32(a.v[i], missing);
  return r;
}

/* Two groups of four channels, transposed to four keys of eight channels at a time, less 128. */
SPW_INLINE void pack_values8(const uint8_t *low, const uint8_t *high, int8_t *to) {
  static const uint8_t order[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
  const uint8_t *from[2] = {low, high};
  for (int i = 0; i < 8; i++) {
    uint8x16_t turned = vqtbl1q_u8(vld1q_u8(from[i % 2] + i / 2 * 16), vld1q_u8(order));
    vst1q_s8(to + 16 * i, vreinterpretq_s8_u8(veorq_u8(turned, vdupq_n_u8(128))));
  }
}

#endif
