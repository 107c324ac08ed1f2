/* Softmax over the keys, each lane one query. Include after lanes.h. */
#ifndef SPW_SOFTMAX_H
#define SPW_SOFTMAX_H

#include <float.h>
#include <math.h>

#include "lane_math.h"

/* score * scale + mask; `mask` is the key's. */
SPW_INLINE vf masked_score(vf score, vf scale, const float *mask, uint32_t key) {
  return vf_fma(score, scale, vf_set1(mask ? mask[key] : 0.0f));
}

/* scores[key][16] becomes e^(score - highest); returns their sum. A lane whose scores are all -inf gets
 * zeros. */
SPW_INLINE vf exponentials(float *scores, uint32_t keys, vf highest) {
  highest = vf_where_less(highest, vf_set1(-FLT_MAX), vf_set1(0.0f), highest);
  vf sum = vf_set1(0.0f);
  for (uint32_t j = 0; j < keys; j++) {
    vf e = vf_exp(vf_sub(vf_load(scores + j * SPW_LANES), highest));
    vf_store(scores + j * SPW_LANES, e);
    sum = vf_add(sum, e);
  }
  return sum;
}

/* 1 / sum, and 0 for a lane without any key: the highest score alone adds more than a half to any other. */
SPW_INLINE vf inverse_sum(vf sum) {
  vf inverse = vf_div(vf_set1(1.0f), sum);
  return vf_where_less(sum, vf_set1(0.5f), vf_set1(0.0f), inverse);
}

#endif
