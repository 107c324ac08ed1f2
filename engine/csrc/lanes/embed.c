#include "lanes.h"
#include "lane_math.h"

enum { BLOCK = 64 }; /* channels of all lanes that are written while their lines lie in the first-level cache */

/* sums = the table's values from `at` on, or sums + them. */
SPW_INLINE void add_values(const spw_table *table, size_t at, const uint32_t count, bool is_first, float sums[BLOCK]) {
  float values[BLOCK];
  if (table->f32) {
    for (uint32_t c = 0; c < count; c++) values[c] = table->f32[at + c];
  } else {
    for (uint32_t c = 0; c < count; c++) values[c] = (float)table->s8[at + c] * table->scale;
  }
  if (is_first) {
    for (uint32_t c = 0; c < count; c++) sums[c] = values[c];
  } else {
    for (uint32_t c = 0; c < count; c++) sums[c] += values[c];
  }
}

SPW_INLINE void embed_lane(const spw_embed *step, size_t token, uint32_t from, const uint32_t count, float *y) {
  float sums[BLOCK] = {0};
  for (uint32_t i = 0; i < step->table_count && step->present[token]; i++) {
    const spw_table *table = &step->tables[i];
    add_values(table, (size_t)table->rows[token] * step->channels + from, count, i == 0, sums);
  }
  for (uint32_t c = 0; c < count; c++) y[c * SPW_LANES] = sums[c];
}

SPW_INLINE void embed_block(const spw_embed *step, uint32_t tile, uint32_t from, const uint32_t count) {
  float *y = (float *)(step->y.base + tile * step->y.stride) + (size_t)from * SPW_LANES;
  for (uint32_t lane = 0; lane < SPW_LANES; lane++)
    embed_lane(step, (size_t)tile * SPW_LANES + lane, from, count, y + lane);
}

void SPW_KERNEL(embed)(const spw_embed *step, uint32_t tile_begin, uint32_t tile_end) {
  for (uint32_t tile = tile_begin; tile < tile_end; tile++) {
    uint32_t from = 0;
    for (; from + BLOCK <= step->channels; from += BLOCK) embed_block(step, tile, from, BLOCK);
    if (from < step->channels) embed_block(step, tile, from, step->channels - from);
  }
}
