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

/* GELU with an error of 5e-7, for results that become bytes: max(x, 0) - g(|x|) with g(a) = a / 2 * erfc(a / sqrt(2)),
 * which is a cubic on each of 32 segments of [0, 5.3] (a least-maximum fit in the distance from the segment's middle, as
 * a fraction of its width) and as good as 0 beyond. */
SPW_INLINE vf vf_gelu_short(vf x) {
  static const float fit[4][32] = {
    {0.0386730805f, 0.0998461843f, 0.140538424f, 0.162928388f, 0.169962078f, 0.165029287f, 0.151620939f,
     0.133018225f, 0.112052657f, 0.0909586996f, 0.0713224038f, 0.0541129746f, 0.0397739895f, 0.0283471141f,
     0.0196030345f, 0.0131603172f, 0.00858047698f, 0.00543493917f, 0.00334521709f, 0.00200118357f,
     0.00116373133f, 0.000657928933f, 0.000361670187f, 0.000193327156f, 0.00010049672f, 5.08062367e-05f,
     2.49810764e-05f, 1.19468586e-05f, 5.55726683e-06f, 2.51447818e-06f, 1.10668941e-06f, 4.73811156e-07f},
    {0.0718938559f, 0.0506477952f, 0.0311040618f, 0.0141723352f, 0.00046581772f, -0.00974434521f, -0.0165214799f,
     -0.0202095769f, -0.021348333f, -0.0205758214f, -0.018536808f, -0.0158102289f, -0.0128630102f,
     -0.0100309532f, -0.00752235809f, -0.00543726096f, -0.0037945006f, -0.00255994219f, -0.00167121901f,
     -0.00105657405f, -0.00064728962f, -0.000384457235f, -0.000221476686f, -0.000123790829f, -6.71514717e-05f,
     -3.53619726e-05f, -1.80810257e-05f, -8.97830887e-06f, -4.33031846e-06f, -2.0288935e-06f, -9.23561231e-07f,
     -4.08494401e-07f},
    {-0.0108564803f, -0.0102727888f, -0.00917541981f, -0.00769206975f, -0.00598628027f, -0.00423092721f,
     -0.00258272956f, -0.00116237428f, -4.35864276e-05f, 0.000748354243f, 0.00122998864f, 0.00144780765f,
     0.00146446889f, 0.00134605146f, 0.00115234533f, 0.000931016868f, 0.000715496135f, 0.000525707961f,
     0.000370587193f, 0.000251267775f, 0.000164170939f, 0.000103512073f, 6.30534269e-05f, 3.71397946e-05f,
     2.11690276e-05f, 1.16830142e-05f, 6.24626864e-06f, 3.23655763e-06f, 1.62592755e-06f, 7.92155447e-07f,
     3.74394403e-07f, 1.71696456e-07f},
    {9.93243084e-05f, 0.000285940157f, 0.000438597315f, 0.00054129411f, 0.000586397073f, 0.000575237849f,
     0.000516963366f, 0.000425940438f, 0.000318588165f, 0.000210336904f, 0.000113349801f, 3.53290889e-05f,
     -2.05879078e-05f, -5.50864424e-05f, -7.14582638e-05f, -7.42886114e-05f, -6.83290127e-05f, -5.77310202e-05f,
     -4.56389607e-05f, -3.41152045e-05f, -2.42723636e-05f, -1.6510372e-05f, -1.07708338e-05f, -6.7545684e-06f,
     -4.07914968e-06f, -2.37555787e-06f, -1.33556512e-06f, -7.25534335e-07f, -3.81124295e-07f, -1.93713916e-07f,
     -9.53167358e-08f, -4.54241906e-08f},
  };
  const vf magic = vf_set1(12582912.0f); /* as in vf_round: the sum's low bits are the segment */
  vf size = vf_max(x, vf_sub(vf_set1(0.0f), x));
  vf place = vf_min(vf_fma(size, vf_set1(32.0f / 5.3f), vf_set1(-0.5f)), vf_set1(31.49f));
  vf segment = vf_add(place, magic);
  vf r = vf_sub(place, vf_sub(segment, magic));
  vf y = vf_fma(vf_lookup32(fit[3], segment), r, vf_lookup32(fit[2], segment));
  y = vf_fma(y, r, vf_lookup32(fit[1], segment));
  y = vf_fma(y, r, vf_lookup32(fit[0], segment));
  return vf_sub(vf_max(vf_set1(0.0f), x), y);
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
