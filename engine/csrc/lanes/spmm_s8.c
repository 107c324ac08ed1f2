/* Sparse uint8 x int8 layers: only the non-zero 1x4 blocks of the weight are stored and multiplied.
 *
 * Loads bound the products, so rows are taken in pairs: what both multiply is loaded once. The input channels are walked
 * in chunks, so that the chunk of a group of tiles stays in the first-level cache while the rows use it. Between chunks
 * the sums wait in `scratch`. */
#include "lanes.h"
#include "linear_store.h"

/* What of a weight is still to be multiplied. */
typedef struct stream {
  const int8_t *weights;
  const uint16_t *indices;
} stream;

/* Adds one block, whose input is group `index`, to the sums of each tile. */
SPW_INLINE void add_block(const uint8_t *const *x, uint32_t index, vw weight, const uint32_t tiles, vacc *acc) {
#pragma GCC unroll 8
  for (uint32_t t = 0; t < tiles; t++) acc[t] = vacc_dot(acc[t], vx_load(x[t] + (size_t)index * 64), weight);
}

/* Adds `count` blocks of one row. */
SPW_INLINE void add_own(const uint8_t *const *x, stream *from, uint32_t count, const uint32_t tiles, vacc *acc) {
  const int8_t *weights = from->weights;
  const uint16_t *indices = from->indices;
  for (; count >= 4; count -= 4, weights += 16, indices += 4) {
    vw4 four = vw4_load(weights);
    uint64_t packed; /* one load for four indices: loads are what the loop has least of */
    memcpy(&packed, indices, sizeof packed);
    add_block(x, index_of(packed, 0), vw4_at(four, 0), tiles, acc);
    add_block(x, index_of(packed, 1), vw4_at(four, 1), tiles, acc);
    add_block(x, index_of(packed, 2), vw4_at(four, 2), tiles, acc);
    add_block(x, index_of(packed, 3), vw4_at(four, 3), tiles, acc);
  }
  for (; count > 0; count--, weights += 4, indices++) add_block(x, *indices, vw_load(weights), tiles, acc);
  *from = (stream){weights, indices};
}

SPW_INLINE void clear(const uint32_t tiles, vacc *acc) {
#pragma GCC unroll 8
  for (uint32_t t = 0; t < tiles; t++) acc[t] = vacc_zero();
}

/* Adds a chunk's sums to those of the chunks before: at its end, so that no product waits for the second-level cache. */
SPW_INLINE void store_sums(const vacc *acc, const uint32_t tiles, bool first, uint8_t *sums) {
#pragma GCC unroll 8
  for (uint32_t t = 0; t < tiles; t++) {
    vi sum = vacc_sum(acc[t]);
    vi_store(sums + t * 64, first ? sum : vi_add(sum, vi_load(sums + t * 64)));
  }
}

#if SPARSE_PAIRS
/* Adds a block of each row to its sums; both multiply the same input. */
SPW_INLINE void add_both(const uint8_t *const *x, uint32_t index, vw weight_a, vw weight_b, const uint32_t tiles,
                         vacc *a, vacc *b) {
#pragma GCC unroll 8
  for (uint32_t t = 0; t < tiles; t++) {
    vx value = vx_load(x[t] + (size_t)index * 64);
    a[t] = vacc_dot(a[t], value, weight_a);
    b[t] = vacc_dot(b[t], value, weight_b);
  }
}

/* Adds `count` groups, an even number, in which both rows have a block. */
SPW_INLINE void add_shared(const uint8_t *const *x, stream *from, uint32_t count, const uint32_t tiles, vacc *a,
                           vacc *b) {
  for (; count > 0; count -= 2, from->weights += 16, from->indices += 2) {
    vw4 four = vw4_load(from->weights);
    uint32_t packed;
    memcpy(&packed, from->indices, sizeof packed);
    add_both(x, index_of(packed, 0), vw4_at(four, 0), vw4_at(four, 1), tiles, a, b);
    add_both(x, index_of(packed, 1), vw4_at(four, 2), vw4_at(four, 3), tiles, a, b);
  }
}

SPW_INLINE void add_pair(const uint8_t *const *x, stream *from, const uint16_t *counts, const uint32_t tiles,
                         bool first, uint8_t *sums_a, uint8_t *sums_b) {
  vacc a[SPARSE_TILES], b[SPARSE_TILES];
  clear(tiles, a);
  clear(tiles, b);
  add_shared(x, from, counts[0], tiles, a, b);
  add_own(x, from, counts[1], tiles, a);
  add_own(x, from, counts[2], tiles, b);
  store_sums(a, tiles, first, sums_a);
  store_sums(b, tiles, first, sums_b);
}
#else
/* Adds a row's blocks among the `count` groups in which both rows have one: every other block at `weights`. */
SPW_INLINE void add_half(const uint8_t *const *x, const int8_t *weights, const uint16_t *indices, uint32_t count,
                         const uint32_t tiles, vacc *acc) {
  for (; count > 0; count--, weights += 8, indices++) add_block(x, *indices, vw_load(weights), tiles, acc);
}

/* Row after row: too few registers for the sums of two. */
SPW_INLINE void add_pair(const uint8_t *const *x, stream *from, const uint16_t *counts, const uint32_t tiles,
                         bool first, uint8_t *sums_a, uint8_t *sums_b) {
  stream own = {from->weights + (size_t)counts[0] * 8, from->indices + counts[0]};
#pragma GCC unroll 2
  for (uint32_t r = 0; r < 2; r++) {
    uint8_t *sums = r == 0 ? sums_a : sums_b;
    vacc acc[SPARSE_TILES];
    clear(tiles, acc);
    add_half(x, from->weights + r * 4, from->indices, counts[0], tiles, acc);
    add_own(x, &own, counts[1 + r], tiles, acc);
    store_sums(acc, tiles, first, sums);
  }
  *from = own;
}
#endif

/* A model's weights come from memory, and what brings them ahead by itself stops at each page. */
SPW_INLINE void fetch_ahead(const stream *from) {
  const char *weights = (const char *)from->weights + 512, *indices = (const char *)from->indices + 256;
  for (int line = 0; line < 3; line++) __builtin_prefetch(weights + line * 64);
  for (int line = 0; line < 2; line++) __builtin_prefetch(indices + line * 64);
}

/* Adds a chunk of one part's rows. */
SPW_INLINE void add_part(const uint8_t *const *x, stream from, uint32_t rows, const uint32_t tiles, bool first,
                         uint8_t *sums) {
  for (uint32_t pair = 0; pair < rows / 2; pair++) {
    const uint16_t *header = from.indices;
    fetch_ahead(&from);
    from.indices += SPW_PAIR_HEADER;
    add_pair(x, &from, header + 2, tiles, first, sums + (size_t)header[0] * tiles * 64,
             sums + (size_t)header[1] * tiles * 64);
  }
}

SPW_INLINE void tile_group(const spw_linear_u8 *step, uint32_t tile, uint32_t row_begin, uint32_t row_end,
                           const uint32_t tiles, uint8_t *sums) {
  uint32_t groups = (step->k + 3) / 4, per_chunk = step->chunk / 4, chunks = (groups + per_chunk - 1) / per_chunk;
  for (uint32_t chunk = 0; chunk < chunks; chunk++) {
    const uint8_t *x[SPARSE_TILES];
#pragma GCC unroll 8
    for (uint32_t t = 0; t < tiles; t++)
      x[t] = step->x.base + (tile + t) * step->x.stride + (size_t)chunk * per_chunk * 64;
    for (uint32_t row = row_begin; row < row_end; row += SPW_PAIR_ROWS) {
      spw_pair_start start = step->starts[row / SPW_PAIR_ROWS * chunks + chunk];
      stream from = {step->weights + (size_t)start.weight * 4, step->indices + start.index};
      add_part(x, from, at_most(row_end - row, SPW_PAIR_ROWS), tiles, chunk == 0,
               sums + (size_t)(row - row_begin) * tiles * 64);
    }
  }
  linear_store(step, tile, tiles, row_begin, row_end, sums);
}

void SPW_KERNEL(spmm_s8)(const spw_linear_u8 *step, uint32_t tile_begin, uint32_t tile_end, uint32_t row_begin,
                         uint32_t row_end, void *scratch) {
  for (uint32_t row = row_begin; row < row_end; row += SPW_SPARSE_ROWS)
    for (uint32_t tile = tile_begin; tile < tile_end; tile += SPARSE_TILES)
      WITH_TILES(at_most(tile_end - tile, SPARSE_TILES), SPARSE_TILES,
                 tile_group(step, tile, row, at_most(row_end, row + SPW_SPARSE_ROWS), tiles, scratch))
}
