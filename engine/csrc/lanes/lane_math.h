/* Elementary functions on sixteen lanes. Every one is built from correctly rounded operations in a fixed
 * order, so that all instruction sets agree. vf_min and vf_max give their second operand where the two are
 * unordered: constants come first where NaN must pass through. Include after the folder's lanes.h. */
#ifndef SPW_LANE_MATH_H
#define SPW_LANE_MATH_H

#include "kernels.h"

#define HORNER(x, coefficients)                                                        \
  horner((x), (coefficients), (int)(sizeof(coefficients) / sizeof(*(coefficients))))

/* coefficients[0] is the highest power's. */
SPW_INLINE vf horner(vf x, const float *coefficients, int count) {
  vf sum = vf_set1(coefficients[0]);
#pragma GCC unroll 16
  for (int i = 1; i < count; i++) sum = vf_fma(sum, x, vf_set1(coefficients[i]));
  return sum;
}

/* Nearest integer, ties to even, for |a| < 2^22: the sum's last bit is then worth one. */
SPW_INLINE vf vf_round(vf a) {
  const vf magic = vf_set1(12582912.0f);
  return vf_sub(vf_add(a, magic), magic);
}

/* e^x for x <= 88; 0 below -87.3, where the result would be denormal. Relative error 1e-7.
 * x = n ln2 + r, |r| <= ln2/2, with ln2 split in two (Cody and Waite); the polynomial is a minimax fit. */
SPW_FUNCTION vf vf_exp(vf x) {
  static const float fit[] = {0.00138146104f, 0.00836871006f, 0.0416683890f, 0.166665211f,
                              0.499999940f,   1.0f,           1.0f};
  const vf lowest = vf_set1(-87.3f);
  vf bounded = vf_max(lowest, vf_min(vf_set1(88.0f), x));
  vf n = vf_round(vf_mul(bounded, vf_set1(1.44269504f)));
  vf r = vf_fma(n, vf_set1(-0.693145752f), bounded);
  r = vf_fma(n, vf_set1(-1.42860677e-6f), r);
  vi power = vi_shl(vi_add(vf_to_int(n), vi_set1(127)), 23);
  vf result = vf_mul(HORNER(r, fit), vi_as_float(power));
  return vf_where_less(x, lowest, vf_set1(0.0f), result);
}

/* 2^x for x <= 127; 2^-126 below -126. Relative error 2e-7. The polynomial is a minimax fit on [-1/2, 1/2]; adding
 * the magic number leaves x's nearest integer in the sum's low bits, as in vf_round. */
SPW_INLINE vf vf_exp2(vf x) {
  static const float fit[] = {0.00132647273f, 0.00967151299f, 0.0555073358f, 0.240222424f, 0.693147004f, 1.0f};
  const vf magic = vf_set1(12582912.0f);
  vf bounded = vf_max(x, vf_set1(-126.0f));
  vf rounded = vf_add(bounded, magic);
  vf r = vf_sub(bounded, vf_sub(rounded, magic));
  return vi_as_float(vi_add(vf_bits(HORNER(r, fit)), vi_shl(vf_bits(rounded), 23)));
}

/* erf(x), absolute error 3e-7: x times a polynomial in 2 (x / 3.9)^2 - 1, a least-maximum fit on
 * [-3.9, 3.9]; beyond, the result is +-1 exactly. NaN becomes 1. */
SPW_FUNCTION vf vf_erf(vf x) {
  static const float fit[] = {0.00159606012f, -0.00404269621f, 0.00296101742f, -0.00347947632f, 0.0122481994f,
                              -0.0221518818f, 0.0299632121f,   -0.0417854562f, 0.0576439351f,   -0.0739973336f,
                              0.0907090306f,  -0.109515764f,   0.134688929f,   -0.181011498f,   0.362583995f};
  vf bounded = vf_max(vf_min(x, vf_set1(3.9f)), vf_set1(-3.9f));
  vf z = vf_fma(vf_mul(bounded, bounded), vf_set1(2.0f / (3.9f * 3.9f)), vf_set1(-1.0f));
  vf y = vf_mul(bounded, HORNER(z, fit));
  return vf_max(vf_min(y, vf_set1(1.0f)), vf_set1(-1.0f));
}

SPW_INLINE vf vf_gelu(vf x) {
  vf half = vf_mul(x, vf_set1(0.5f));
  return vf_fma(half, vf_erf(vf_mul(x, vf_set1(0.707106781f))), half);
}

/* GELU with an absolute error of 7e-6, for results that become bytes: a cubic on each of 32 segments of [-5, 5] (a
 * least-maximum fit in the distance from the segment's middle, as a fraction of its width), the first of them 0 and
 * the last x. */
SPW_INLINE vf vf_gelu_short(vf x) {
  static const float fit[4][32] = {
    {0.0f, -1.32724008e-05f, -5.17856533e-05f, -0.000183006574f, -0.000585539965f, -0.00169530208f,
     -0.00443818606f, -0.0104940273f, -0.0223725643f, -0.0428907126f, -0.0736162215f, -0.112256557f,
     -0.14988108f, -0.169787228f, -0.149821058f, -0.0684200227f, 0.0878299773f, 0.318928927f, 0.611462772f,
     0.943868935f, 1.29399347f, 1.64513373f, 1.98835933f, 2.32137752f, 2.64575601f, 2.96431184f, 3.27955461f,
     3.59316444f, 3.90606689f, 4.21869802f, 4.53123665f, 4.84375f},
    {0.0f, -1.87278092e-05f, -6.79474688e-05f, -0.000221959781f, -0.000651813811f, -0.00171716558f,
     -0.00404628692f, -0.00849110819f, -0.0157609023f, -0.0255819224f, -0.035537608f, -0.0402783789f,
     -0.0321496576f, -0.00386517961f, 0.0475259274f, 0.117606945f, 0.194893062f, 0.264974087f, 0.316365182f,
     0.344649643f, 0.352778375f, 0.348037601f, 0.338081926f, 0.328260899f, 0.320991099f, 0.316546291f,
     0.31421718f, 0.313151807f, 0.312721968f, 0.312567949f, 0.312518716f, 0.3125f},
    {0.0f, -1.29515056e-05f, -4.30837244e-05f, -0.000128021609f, -0.000338535494f, -0.000792380306f,
     -0.00162816024f, -0.00289728376f, -0.00435393583f, -0.00522294734f, -0.00417146925f, 0.000249905395f,
     0.00867182855f, 0.0199476462f, 0.0309820753f, 0.03786733f, 0.03786733f, 0.0309820753f, 0.0199476462f,
     0.00867182855f, 0.000249905395f, -0.00417146925f, -0.00522294734f, -0.00435393583f, -0.00289728376f,
     -0.00162816024f, -0.000792380306f, -0.000338535494f, -0.000128021609f, -4.30837244e-05f,
     -1.29515056e-05f, 0.0f},
    {0.0f, -5.41439658e-06f, -1.64249541e-05f, -4.39516079e-05f, -0.000102871207f, -0.000207767298f,
     -0.000353423733f, -0.000480834191f, -0.000448680104f, -5.60915651e-05f, 0.000841122703f, 0.0021466685f,
     0.00340733188f, 0.0039371294f, 0.00319727417f, 0.00123508601f, -0.00123508601f, -0.00319727417f,
     -0.0039371294f, -0.00340733188f, -0.0021466685f, -0.000841122703f, 5.60915651e-05f, 0.000448680104f,
     0.000480834191f, 0.000353423733f, 0.000207767298f, 0.000102871207f, 4.39516079e-05f, 1.64249541e-05f,
     5.41439658e-06f, 0.0f},
  };
  const vf magic = vf_set1(12582912.0f); /* as in vf_round: the sum's low bits are the segment */
  vf place = vf_fma(x, vf_set1(3.2f), vf_set1(15.5f));
  vf segment = vf_add(vf_min(vf_max(place, vf_set1(0.0f)), vf_set1(31.0f)), magic);
  vf r = vf_sub(place, vf_sub(segment, magic));
  vf y = vf_fma(vf_lookup32(fit[3], segment), r, vf_lookup32(fit[2], segment));
  y = vf_fma(y, r, vf_lookup32(fit[1], segment));
  return vf_fma(y, r, vf_lookup32(fit[0], segment));
}

/* Cephes tanhf's polynomial for |x| < 0.625; elsewhere 1 - 2 / (e^2|x| + 1), with x's sign. */
SPW_FUNCTION vf vf_tanh(vf x) {
  static const float fit[] = {-5.70498872745e-3f, 2.06390887954e-2f, -5.37397155531e-2f, 1.33314422036e-1f,
                              -3.33332819422e-1f};
  const vf one = vf_set1(1.0f);
  vf square = vf_mul(x, x);
  vf near = vf_fma(vf_mul(square, HORNER(square, fit)), x, x);
  vf magnitude = vf_max(x, vf_sub(vf_set1(0.0f), x));
  vf power = vf_exp(vf_min(vf_set1(40.0f), vf_add(magnitude, magnitude)));
  vf far = vf_sub(one, vf_div(vf_set1(2.0f), vf_add(power, one)));
  far = vf_where_less(x, vf_set1(0.0f), vf_sub(vf_set1(0.0f), far), far);
  return vf_where_less(magnitude, vf_set1(0.625f), near, far);
}

SPW_FUNCTION vf vf_activation(vf x, spw_activation activation) {
  switch (activation) {
    case SPW_GELU: return vf_gelu(x);
    case SPW_RELU: return vf_max(vf_set1(0.0f), x);
    case SPW_TANH: return vf_tanh(x);
    default: return x;
  }
}

/* clamp(rint(scaled) + zero_point, 0, 255) as 32-bit lanes, ties to even; NaN becomes 0. */
SPW_INLINE vi vf_to_u8(vf scaled, int32_t zero_point) {
  vf lowest = vf_set1((float)-zero_point), highest = vf_set1((float)(255 - zero_point));
  vf bounded = vf_min(vf_max(scaled, lowest), highest);
  return vi_add(vf_to_int(vf_round(bounded)), vi_set1(zero_point));
}

/* ONNX DequantizeLinear. */
SPW_INLINE vf vi_dequantized(vi bytes, spw_quantization q) {
  return vf_mul(vi_to_float(vi_sub(bytes, vi_set1(q.zero_point))), vf_set1(q.scale));
}

/* Four channels of 32-bit lanes holding bytes, as one group of a uint8 buffer. */
SPW_INLINE vi vi_pack4(vi a, vi b, vi c, vi d) {
  return vi_or(vi_or(a, vi_shl(b, 8)), vi_or(vi_shl(c, 16), vi_shl(d, 24)));
}

/* Stores vf_to_u8 of four channels as one group of a uint8 buffer. A folder may have its own. */
#ifndef SPW_STORE_U8
SPW_INLINE void vf_store_u8(uint8_t *to, const vf scaled[4], int32_t zero_point) {
  vi bytes[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) bytes[i] = vf_to_u8(scaled[i], zero_point);
  vi_store(to, vi_pack4(bytes[0], bytes[1], bytes[2], bytes[3]));
}
#endif

/* Four floats that are broadcast one by one; vf4_at(four, i) is the i-th in all lanes. A folder may have its own. */
#ifndef SPW_VF4
typedef const float *vf4;
SPW_INLINE vf4 vf4_load(const float *p) { return p; }
#define vf4_at(four, i) vf_set1((four)[i])
#endif

/* vacc_dot with the four weights at w. A folder may have its own. */
#ifndef SPW_DOT_AT
SPW_INLINE vacc vacc_dot_at(vacc a, vx x, const int8_t *w) { return vacc_dot(a, x, vw_load(w)); }
#endif

/* The reverse of vi_pack4. */
SPW_INLINE void vi_unpack4(vi group, vi bytes[4]) {
  bytes[0] = vi_shr(vi_shl(group, 24), 24);
  bytes[1] = vi_shr(vi_shl(group, 16), 24);
  bytes[2] = vi_shr(vi_shl(group, 8), 24);
  bytes[3] = vi_shr(group, 24);
}

#endif
