/* The register-blocked inner products that the dense layers and attention share. Include after lanes.h. */
#ifndef SPW_PRODUCT_H
#define SPW_PRODUCT_H

#include "lane_math.h"

_Static_assert((int)S8_TILES <= (int)SPW_DENSE_TILES && (int)F32_TILES <= (int)SPW_DENSE_TILES &&
                   (int)SPARSE_TILES <= (int)SPW_SPARSE_TILES,
               "the scratch memory is sized for at most this many tiles");
_Static_assert((int)SPARSE_F32_TILES <= (int)SPW_SPARSE_TILES, "as above");
_Static_assert((int)SPW_ROW_BLOCK % (int)S8_ROWS == 0 && (int)SPW_ROW_BLOCK % (int)F32_ROWS == 0,
               "rows are packed in these blocks");

/* Runs `call` with the constant `tiles` equal to `count`, 1 <= count <= most <= 8. */
#define WITH_TILES(count, most, call)                              \
  switch (count) {                                                 \
    TILES_CASE(1, most, call)                                      \
    TILES_CASE(2, most, call)                                      \
    TILES_CASE(3, most, call)                                      \
    TILES_CASE(4, most, call)                                      \
    TILES_CASE(5, most, call)                                      \
    TILES_CASE(6, most, call)                                      \
    TILES_CASE(7, most, call)                                      \
    default: {                                                     \
      enum { tiles = (most) };                                     \
      call;                                                        \
    }                                                              \
  }
/* Compiled only where `most` is larger: `most` itself is the default. */
#define TILES_CASE(value, most, call) \
  case value:                         \
    if ((int)(most) > (value)) {      \
      enum { tiles = (value) };       \
      call;                           \
      break;                          \
    }                                 \
    __attribute__((fallthrough));

SPW_INLINE uint32_t at_most(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* Index i of four packed into one word by a little-endian load. */
SPW_INLINE uint32_t index_of(uint64_t packed, int i) { return (uint16_t)(packed >> 16 * i); }

/* sums[row * tiles + tile] = sum over `groups` of four channels of x times the block of eight rows at w,
 * which is [groups][8][4]. `stride` is x's distance from tile to tile. */
SPW_INLINE void product_s8(const uint8_t *x, size_t stride, const int8_t *w, uint32_t groups,
                           const uint32_t tiles, vi *sums) {
  for (uint32_t first = 0; first < SPW_ROW_BLOCK; first += S8_ROWS) {
    vacc acc[S8_ROWS * S8_TILES];
#pragma GCC unroll 32
    for (uint32_t i = 0; i < S8_ROWS * tiles; i++) acc[i] = vacc_zero();
    const uint8_t *from = x;
    const int8_t *weights = w + first * 4;
    for (uint32_t g = 0; g < groups; g++, from += 64, weights += SPW_ROW_BLOCK * 4) {
      vx values[S8_TILES];
#pragma GCC unroll 8
      for (uint32_t t = 0; t < tiles; t++) values[t] = vx_load(from + t * stride);
#pragma GCC unroll 8
      for (uint32_t r = 0; r < S8_ROWS; r++) {
        vw weight = vw_load(weights + r * 4);
#pragma GCC unroll 8
        for (uint32_t t = 0; t < tiles; t++) acc[r * tiles + t] = vacc_dot(acc[r * tiles + t], values[t], weight);
      }
    }
#pragma GCC unroll 32
    for (uint32_t i = 0; i < S8_ROWS * tiles; i++) sums[first * tiles + i] = vacc_sum(acc[i]);
  }
}

/* acc[row * tiles + tile] += sum over k < count of x[k] * w[k * k_step + row * row_step], in k's order. */
SPW_INLINE void product_f32(const float *x, size_t stride, const float *w, size_t k_step, size_t row_step,
                            uint32_t count, const uint32_t rows, const uint32_t tiles, vf *acc) {
  for (uint32_t k = 0; k < count; k++, x += SPW_LANES, w += k_step) {
    vf values[F32_TILES];
#pragma GCC unroll 8
    for (uint32_t t = 0; t < tiles; t++) values[t] = vf_load(x + t * stride);
#pragma GCC unroll 8
    for (uint32_t r = 0; r < rows; r++) {
      vf weight = vf_set1(w[r * row_step]);
#pragma GCC unroll 8
      for (uint32_t t = 0; t < tiles; t++) acc[r * tiles + t] = vf_fma(values[t], weight, acc[r * tiles + t]);
    }
  }
}

#endif
