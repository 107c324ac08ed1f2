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

/* GELU of four values with an error of 5e-7, for results that become bytes: max(x, 0) - g(|x|) with
 * g(a) = a / 2 * erfc(a / sqrt(2)), which is a cubic around each of 32 points of [0, 5.25] (a least-maximum fit in the
 * distance from the point, as a fraction of that between points) and as good as 0 beyond. Each operation is done for all
 * four before the next: the schedulers of a processor hold too few operations for chains that follow one another. */
SPW_INLINE void vf_gelu_short4(vf x[4]) {
  static const float fit[4][32] = {
    {-2.49750904e-08f, 0.0723218098f, 0.123172596f, 0.154289603f, 0.16833663f, 0.168598369f, 0.158628911f,
     0.141909197f, 0.121561199f, 0.100150302f, 0.0795883313f, 0.0611305498f, 0.0454462618f, 0.0327355936f,
     0.0228644237f, 0.0154943299f, 0.0101918643f, 0.0065096179f, 0.00403830316f, 0.00243377313f, 0.001425202f,
     0.000811056059f, 0.000448595471f, 0.000241174275f, 0.000126041748f, 6.40375438e-05f, 3.1631258e-05f,
     1.51908043e-05f, 7.09325059e-06f, 3.22051415e-06f, 1.42178351e-06f, 6.10353254e-07f},
    {0.0833613947f, 0.0613864958f, 0.0406082086f, 0.0220749415f, 0.0065725171f, -0.00545090577f, -0.0139030609f,
     -0.0190127306f, -0.0212541129f, -0.0212490447f, -0.0196669213f, -0.0171390958f, -0.0141984131f,
     -0.0112474626f, -0.00855310354f, -0.00626066653f, -0.00441968348f, -0.00301345531f, -0.00198665098f,
     -0.00126746623f, -0.000783081225f, -0.00046878439f, -0.000272039586f, -0.000153089946f, -8.35705869e-05f,
     -4.42657656e-05f, -2.27556302e-05f, -1.13553615e-05f, -5.5014566e-06f, -2.58811269e-06f, -1.18242519e-06f,
     -5.24685163e-07f},
    {-0.0111047756f, -0.0107717058f, -0.00989624299f, -0.00855457876f, -0.00690102438f, -0.00511307083f,
     -0.00336352643f, -0.0017963323f, -0.00051063404f, 0.000445286132f, 0.00107059081f, 0.00140148157f,
     0.00149722979f, 0.00142604543f, 0.00125338801f, 0.00103413209f, 0.000808814657f, 0.000603353488f,
     0.000431051914f, 0.000295788836f, 0.000195367291f, 0.000124405167f, 7.64687429e-05f, 4.54170113e-05f,
     2.60849374e-05f, 1.44971555e-05f, 7.8007206e-06f, 4.06579056e-06f, 2.05344668e-06f, 1.00529974e-06f,
     4.77207607e-07f, 2.19699302e-07f},
    {5.12725637e-05f, 0.000200767419f, 0.000377079821f, 0.00050885533f, 0.000583741814f, 0.000598731451f,
     0.000559754611f, 0.000479639246f, 0.000374898955f, 0.000262396497f, 0.000156514521f, 6.73703616e-05f,
     2.22391719e-07f, -4.408936e-05f, -6.80233425e-05f, -7.59547329e-05f, -7.28669984e-05f, -6.34050157e-05f,
     -5.12717561e-05f, -3.90389141e-05f, -2.82121673e-05f, -1.94517506e-05f, -1.28421389e-05f, -8.13982115e-06f,
     -4.96306939e-06f, -2.91547076e-06f, -1.65202425e-06f, -9.03855039e-07f, -4.77864774e-07f, -2.44301361e-07f,
     -1.20838877e-07f, -5.7857072e-08f},
  };
  const vf magic = vf_set1(12582912.0f); /* as in vf_round: the sum's low bits are the point */
  vf r[4], point[4], y[4];
#define EACH4(statement) _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) statement
  EACH4(r[i] = vf_mul(vf_abs(x[i]), vf_set1(31.49f / 5.25f)));
  EACH4(r[i] = vf_min(r[i], vf_set1(31.49f)));
  EACH4(point[i] = vf_add(r[i], magic));
  EACH4(y[i] = vf_lookup32(fit[3], point[i]));
  EACH4(r[i] = vf_sub(r[i], vf_sub(point[i], magic)));
  EACH4(y[i] = vf_fma(y[i], r[i], vf_lookup32(fit[2], point[i])));
  EACH4(y[i] = vf_fma(y[i], r[i], vf_lookup32(fit[1], point[i])));
  EACH4(y[i] = vf_fma(y[i], r[i], vf_lookup32(fit[0], point[i])));
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
