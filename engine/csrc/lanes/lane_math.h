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

#define ROUNDING 12582912.0f /* added to a number, it leaves the nearest integer in the sum's low bits */

/* Nearest integer, ties to even, for |a| < 2^22: the sum's last bit is then worth one. */
SPW_INLINE vf vf_round(vf a) {
  const vf magic = vf_set1(ROUNDING);
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

/* 2^x for x <= 127; 2^-120 below -120. Relative error 6e-7. With x = i / 16 + r, the i of which a magic number leaves in
 * the low bits of its sum with x, 2^r is a multiple of (r + a)^2 + b, by a least-maximum fit on [-1/32, 1/32], and the
 * table has that multiple of 2^(i / 16), for the four bits of i behind the point, less what they add to the exponent
 * and the fraction when all of i is added to them. */
SPW_INLINE vf vf_exp2(vf x) {
  static const float powers[16] = {
      0.24021946f, 0.24261494f, 0.2403556f, 0.23834209f,
      0.23658535f, 0.23509671f, 0.23388804f, 0.23297177f,
      0.23236081f, 0.23206869f, 0.23210953f, 0.23249806f,
      0.23324968f, 0.23438047f, 0.23590721f, 0.23784745f};
  const vf sixteenths = vf_set1(ROUNDING / 16);
  vf bounded = vf_max(x, vf_set1(-120.0f));
  vf rounded = vf_add(bounded, sixteenths);
  vf distance = vf_add(vf_sub(bounded, vf_sub(rounded, sixteenths)), vf_set1(1.442822f));
  vf power = vf_lookup16(powers, rounded);
  vf scale = vi_as_float(vi_add(vf_bits(power), vi_shl(vf_bits(rounded), 19)));
  return vf_mul(scale, vf_fma(distance, distance, vf_set1(2.0811248f)));
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

/* GELU of four values for results that become bytes, of arguments in the points' units and in units of the result's scale
 * (spw_gelu in kernels.h). Its error is 6e-8 and float32's. Each operation is done for all four before the next: a
 * processor's schedulers hold too few operations for chains that follow one another. */
SPW_INLINE void vf_gelu_bytes4(vf x[4], const spw_gelu *gelu) {
  const vf magic = vf_set1(SPW_GELU_ROUNDING), last = vf_set1(SPW_GELU_LAST), slope = vf_set1(gelu->slope);
  vf r[4], point[4], y[4];
#define EACH4(statement) _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) statement
  EACH4(r[i] = vf_min(vf_abs(x[i]), last));
  EACH4(point[i] = vf_add(r[i], magic)); /* its low bits are the point */
  EACH4(r[i] = vf_sub(r[i], vf_sub(point[i], magic)));
  EACH4(y[i] = vf_lookup16(gelu->fit[4], point[i]));
#pragma GCC unroll 4
  for (int degree = 3; degree >= 0; degree--) EACH4(y[i] = vf_fma(y[i], r[i], vf_lookup16(gelu->fit[degree], point[i])));
  EACH4(x[i] = vf_fma(vf_max(x[i], vf_set1(0.0f)), slope, y[i]));
#undef EACH4
}

/* Cephes tanhf's polynomial for |x| < 0.625; elsewhere 1 - 2 / (e^2|x| + 1), with x's sign. */
SPW_FUNCTION vf vf_tanh(vf x) {
  static const float fit[] = {-5.70498872745e-3f, 2.06390887954e-2f, -5.37397155531e-2f, 1.33314422036e-1f,
                              -3.33332819422e-1f};
  const vf one = vf_set1(1.0f);
  vf square = vf_mul(x, x);
  vf near = vf_fma(vf_mul(square, HORNER(square, fit)), x, x);
  vf magnitude = vf_abs(x);
  vf power = vf_exp(vf_min(vf_set1(40.0f), vf_add(magnitude, magnitude)));
  vf far = vf_sub(one, vf_div(vf_set1(2.0f), vf_add(power, one)));
  far = vf_where_less(x, vf_set1(0.0f), vf_sub(vf_set1(0.0f), far), far);
  return vf_where_less(magnitude, vf_set1(0.625f), near, far);
}

/* x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) */
SPW_INLINE vf vf_gelu_tanh(vf x) {
  vf half = vf_mul(x, vf_set1(0.5f));
  vf inner = vf_fma(vf_mul(x, x), vf_set1(0.0356774081f), vf_set1(0.797884561f));
  return vf_fma(half, vf_tanh(vf_mul(x, inner)), half);
}

SPW_FUNCTION vf vf_activation(vf x, spw_activation activation) {
  switch (activation) {
    case SPW_GELU: return vf_gelu(x);
    case SPW_RELU: return vf_max(vf_set1(0.0f), x);
    case SPW_TANH: return vf_tanh(x);
    case SPW_GELU_TANH: return vf_gelu_tanh(x);
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
