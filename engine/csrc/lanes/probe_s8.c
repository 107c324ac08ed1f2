/* What the instruction set can do at most: products of bytes, in enough chains to hide their latency. */
#include "lanes.h"

#include "kernels.h"

/* No more than the dense kernel keeps in registers. */
enum { VALUES = S8_TILES, WEIGHTS = (int)S8_ROWS < 4 ? (int)S8_ROWS : 4, CHAINS = VALUES * WEIGHTS };

/* Every pair of values and weights differs, and all are loaded again in each round, so that no product is computed
 * once for several sums. */
uint64_t SPW_KERNEL(probe_s8)(uint32_t rounds, uint32_t *sum) {
  static const uint8_t x[VALUES * 64] = {1, 2, 3};
  static const int8_t w[WEIGHTS * 4] = {1, -1, 2, 1};
  vacc sums[CHAINS];
#pragma GCC unroll 32
  for (uint32_t i = 0; i < CHAINS; i++) sums[i] = vacc_zero();
  for (uint32_t round = 0; round < rounds; round++) {
    const uint8_t *from = x;
    const int8_t *weights = w;
    __asm__ volatile("" : "+r"(from), "+r"(weights));
    vx values[VALUES];
#pragma GCC unroll 32
    for (uint32_t i = 0; i < VALUES; i++) values[i] = vx_load(from + i * 64);
#pragma GCC unroll 32
    for (uint32_t j = 0; j < WEIGHTS; j++) {
      vw weight = vw_load(weights + j * 4);
#pragma GCC unroll 32
      for (uint32_t i = 0; i < VALUES; i++)
        sums[j * VALUES + i] = vacc_dot(sums[j * VALUES + i], values[i], weight);
    }
  }
  int32_t lanes[SPW_LANES];
  vi total = vacc_sum(sums[0]);
#pragma GCC unroll 32
  for (uint32_t i = 1; i < CHAINS; i++) total = vi_add(total, vacc_sum(sums[i]));
  vi_store(lanes, total);
  for (uint32_t i = 1; i < SPW_LANES; i++) lanes[0] += lanes[i]; /* a lane that nobody reads would not be computed */
  *sum = (uint32_t)lanes[0];
  return (uint64_t)rounds * CHAINS * SPW_LANES * 4;
}
