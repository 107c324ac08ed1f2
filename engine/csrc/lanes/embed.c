#include "lanes.h"
#include "lane_math.h"

static float entry(const spw_table *table, size_t index) {
  return table->f32 ? table->f32[index] : (float)table->s8[index] * table->scale;
}

static void embed_token(const spw_embed *step, size_t token, float *y) {
  for (uint32_t c = 0; c < step->channels; c++) {
    float sum = 0;
    for (uint32_t i = 0; i < step->table_count; i++) {
      const spw_table *table = &step->tables[i];
      float value = entry(table, (size_t)table->rows[token] * step->channels + c);
      sum = i == 0 ? value : sum + value;
    }
    y[c * SPW_LANES] = sum;
  }
}

void SPW_KERNEL(embed)(const spw_embed *step, uint32_t tile_begin, uint32_t tile_end) {
  for (uint32_t tile = tile_begin; tile < tile_end; tile++) {
    float *y = (float *)(step->y.base + tile * step->y.stride);
    for (uint32_t lane = 0; lane < SPW_LANES; lane++) {
      size_t token = (size_t)tile * SPW_LANES + lane;
      if (step->present[token]) {
        embed_token(step, token, y + lane);
      } else {
        for (uint32_t c = 0; c < step->channels; c++) y[c * SPW_LANES + lane] = 0.0f;
      }
    }
  }
}
