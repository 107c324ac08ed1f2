/* What the instruction set can do at most: products of floats, in enough chains to hide their latency. */
#include "lanes.h"

#include "kernels.h"

enum { CHAINS = 12 };

uint64_t SPW_KERNEL(probe_f32)(uint32_t rounds, uint32_t *sum) {
  static const float start[CHAINS * SPW_LANES] = {1.0f};
  const float *from = start;
  __asm__ volatile("" : "+r"(from)); /* equal parts of a vector would be computed once */
  vf sums[CHAINS], factor = vf_set1(0.999f), addend = vf_set1(0.001f);
#pragma GCC unroll 16
  for (uint32_t i = 0; i < CHAINS; i++) sums[i] = vf_load(from + i * SPW_LANES);
  for (uint32_t round = 0; round < rounds; round++)
#pragma GCC unroll 16
    for (uint32_t i = 0; i < CHAINS; i++) sums[i] = vf_fma(sums[i], factor, addend);
  float lanes[SPW_LANES];
  vf total = sums[0];
#pragma GCC unroll 16
  for (uint32_t i = 1; i < CHAINS; i++) total = vf_add(total, sums[i]);
  vf_store(lanes, total);
  for (uint32_t i = 1; i < SPW_LANES; i++) lanes[0] += lanes[i]; /* a lane that nobody reads would not be computed */
  *sum = (uint32_t)lanes[0];
  return (uint64_t)rounds * CHAINS * SPW_LANES;
}
