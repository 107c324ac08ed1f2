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

/* vf32_at(table, bits) is the table's value at each lane's bits & 31. A folder may have its own. */
#ifndef SPW_VF32
typedef const float *vf32;
SPW_INLINE vf32 vf32_load(const float *table) { return table; }
SPW_INLINE vf vf32_at(vf32 table, vf bits) { return vf_lookup32(table, bits); }
#endif

/* GELU of four values with an error of 3e-8 and the result's rounding, for results that become bytes: max(x, 0) - g(|x|)
 * with g(a) = a / 2 * erfc(a / sqrt(2)), which is a quartic around each of 32 points of [0, 5.75] (a least-maximum fit in
 * the distance from the point, as a fraction of that between points) and as good as 0 beyond. Each operation is done for
 * all four before the next: a processor's schedulers hold too few operations for chains that follow one another. */
SPW_INLINE void vf_gelu_short4(vf x[4]) {
  static const float fit[5][32] = {
    {-3.39775985e-11f, 0.078070879f, 0.13055104f, 0.159910098f, 0.169871122f, 0.164907917f, 0.149689928f,
     0.128575504f, 0.105231389f, 0.0824192092f, 0.0619497225f, 0.0447734445f, 0.0311577637f, 0.0208981205f,
     0.0135195348f, 0.00844052806f, 0.00508761592f, 0.00296168029f, 0.00166553154f, 0.000904996821f,
     0.000475216832f, 0.000241181828f, 0.000118318392f, 5.61116831e-05f, 2.57264292e-05f, 1.14040067e-05f,
     4.88775368e-06f, 2.02560045e-06f, 8.11720895e-07f, 3.14544138e-07f, 1.17866371e-07f, 4.27111821e-08f},
    {0.091298826f, 0.0649893358f, 0.0403887406f, 0.0189586747f, 0.00171870086f, -0.0108580729f, -0.018844964f,
     -0.0227691326f, -0.0234581195f, -0.0218661129f, -0.0189175792f, -0.0153941121f, -0.0118748322f,
     -0.00872643013f, -0.00612959592f, -0.00412510149f, -0.00266434602f, -0.00165371329f, -0.000987358275f,
     -0.000567509793f, -0.000314215082f, -0.000167670209f, -8.6266271e-05f, -4.28088097e-05f, -2.04955304e-05f,
     -9.46949422e-06f, -4.22306903e-06f, -1.81820587e-06f, -7.55858537e-07f, -3.03445802e-07f, -1.17657088e-07f,
     -4.40654766e-08f},
    {-0.0133015411f, -0.0128634851f, -0.0116136409f, -0.00973057654f, -0.00746998703f, -0.00511370599f,
     -0.00291844248f, -0.00107617851f, 0.000306345319f, 0.00120767031f, 0.00167524139f, 0.00179989962f,
     0.00168906315f, 0.00144468318f, 0.00114918593f, 0.00085973338f, 0.000609096722f, 0.000410522625f,
     0.000264056958f, 0.000162469776f, 9.57894081e-05f, 5.41896043e-05f, 2.94461861e-05f, 1.53825349e-05f,
     7.73065403e-06f, 3.73977946e-06f, 1.74232298e-06f, 7.82066763e-07f, 3.38333763e-07f, 1.41112693e-07f,
     5.67573082e-08f, 2.20198242e-08f},
    {2.27679948e-07f, 0.000287686154f, 0.000533548475f, 0.000704674283f, 0.00078350649f, 0.000770192768f,
     0.00068053935f, 0.000540598063f, 0.000379762583f, 0.000224393967f, 9.34623313e-05f, -3.1489808e-06f,
     -6.39401478e-05f, -9.35124626e-05f, -9.97214156e-05f, -9.11132083e-05f, -7.51395783e-05f, -5.72728277e-05f,
     -4.087251e-05f, -2.75255079e-05f, -1.75838541e-05f, -1.06939915e-05f, -6.20810533e-06f, -3.44696491e-06f,
     -1.83334669e-06f, -9.35223284e-07f, -4.58015904e-07f, -2.15523883e-07f, -9.75115384e-08f, -4.24436308e-08f,
     -1.77819128e-08f, -7.17361015e-09f},
    {7.35299182e-05f, 6.83288017e-05f, 5.32203558e-05f, 3.16102269e-05f, 7.82114967e-06f, -1.38039222e-05f,
     -2.99208659e-05f, -3.88129083e-05f, -4.05018e-05f, -3.63955514e-05f, -2.86671348e-05f, -1.95869652e-05f,
     -1.10103274e-05f, -4.11002475e-06f, 6.46414094e-07f, 3.34750621e-06f, 4.41379416e-06f, 4.38293728e-06f,
     3.75430454e-06f, 2.90698449e-06f, 2.08011897e-06f, 1.39254746e-06f, 8.7887355e-07f, 5.25602672e-07f,
     2.98932662e-07f, 1.62118255e-07f, 8.40071763e-08f, 4.16599413e-08f, 1.97967136e-08f, 9.02385366e-09f,
     3.94902955e-09f, 1.66036351e-09f},
  };
  const vf magic = vf_set1(12582912.0f); /* as in vf_round: the sum's low bits are the point */
  vf r[4], point[4], y[4];
#define EACH4(statement) _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) statement
  EACH4(r[i] = vf_mul(vf_abs(x[i]), vf_set1(31.49f / 5.75f)));
  EACH4(r[i] = vf_min(r[i], vf_set1(31.49f)));
  EACH4(point[i] = vf_add(r[i], magic));
  EACH4(r[i] = vf_sub(r[i], vf_sub(point[i], magic)));
  vf32 table = vf32_load(fit[4]);
  EACH4(y[i] = vf32_at(table, point[i]));
#pragma GCC unroll 4
  for (int degree = 3; degree >= 0; degree--) {
    table = vf32_load(fit[degree]);
    EACH4(y[i] = vf_fma(y[i], r[i], vf32_at(table, point[i])));
  }
  EACH4(x[i] = vf_sub(vf_max(vf_set1(0.0f), x[i]), y[i]));
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
