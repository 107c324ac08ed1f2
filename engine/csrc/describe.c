/* What a plan's steps are, for those who explain it. */
#include "plan.h"
#include "steps.h"

static const char *const kernels[SPW_OP_COUNT] = {
    [SPW_EMBED] = "embed",         [SPW_LAYERNORM] = "layernorm",
    [SPW_QUANTIZE] = "quantize",   [SPW_LINEAR_F32] = "gemm_f32",
    [SPW_LINEAR_U8] = "gemm_s8",   [SPW_SPARSE_U8] = "spmm_s8",
    [SPW_ATTENTION_F32] = "attention_f32", [SPW_ATTENTION_U8] = "attention_u8",
    [SPW_ADD] = "add",             [SPW_ACTIVATE] = "activate",
    [SPW_SPARSE_F32] = "spmm_f32", [SPW_SELECT] = "select",       [SPW_OUTPUT] = "output",
    [SPW_DEQUANTIZE] = "dequantize", [SPW_CODE_U8] = "code_s8",
    [SPW_QUANTIZE_TOKENS] = "quantize_tokens", [SPW_RESCALE] = "rescale",
};

static bool is_linear(uint32_t op) {
  return op == SPW_LINEAR_F32 || op == SPW_SPARSE_F32 || op == SPW_LINEAR_U8 || op == SPW_SPARSE_U8 ||
         op == SPW_CODE_U8;
}

static uint64_t weight_bytes(const spw_plan *plan, const spw_file_step *step) {
  if (step->op != SPW_CODE_U8) return step->blobs[BLOB_WEIGHTS].size;
  const spw_code_part *parts = spw_blob(plan, step, BLOB_STARTS);
  uint64_t values = 0, rows = step->blobs[BLOB_BIAS].size / sizeof(float);
  for (uint64_t i = 0; i < step->blobs[BLOB_STARTS].size / sizeof *parts; i++) values += parts[i].values;
  return 4 * (values - rows);
}

static bool is_attention(uint32_t op) { return op == SPW_ATTENTION_F32 || op == SPW_ATTENTION_U8; }

static uint64_t tile_bytes(const spw_plan *plan, const uint32_t *ids, uint32_t count) {
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < count; i++)
    if (ids[i] != SPW_ABSENT) bytes += spw_buffer_tile_bytes(&plan->buffers[ids[i]]);
  return bytes;
}

uint32_t spw_plan_step_count(const spw_plan *plan) { return plan ? plan->header.step_count : 0; }

spw_status spw_plan_step(const spw_plan *plan, uint32_t index, spw_step_info *info) {
  if (info == NULL || index >= spw_plan_step_count(plan)) return SPW_INVALID_ARGUMENT;
  const spw_file_step *s = &plan->steps[index];
  bool linear = is_linear(s->op), attention = is_attention(s->op);
  *info = (spw_step_info){
      .name = spw_string(plan, s->name),
      .kernel = kernels[s->op],
      .k = linear ? s->attributes[LINEAR_K] : 0,
      .n = linear ? s->attributes[LINEAR_N] : 0,
      .activation = linear ? s->attributes[LINEAR_ACTIVATION] : 0,
      .heads = attention ? s->attributes[ATTENTION_HEADS] : 0,
      .head_dim = attention ? s->attributes[ATTENTION_HEAD_DIM] : 0,
      .weight_bytes = linear ? weight_bytes(plan, s) : 0,
      .tile_bytes_read = tile_bytes(plan, s->in, 4),
      .tile_bytes_written = tile_bytes(plan, s->out, 2),
  };
  uint32_t rows = s->in[0] != SPW_ABSENT ? s->in[0] : s->out[0];
  info->channels = plan->buffers[rows].channels;
  info->per_batch = plan->buffers[rows].per_batch;
  for (uint32_t i = 0; i < 6; i++) info->constant_bytes += s->op == SPW_EMBED ? 0 : s->blobs[i].size;
  return SPW_OK;
}
