/* The fields of each op's record: indices into attributes, scalars and blobs. Absent buffers and inputs are
 * SPW_ABSENT. `records.py` writes the same numbers. */
#ifndef SPW_STEPS_H
#define SPW_STEPS_H

enum {
  /* embed: out[0]; four attributes a table */
  EMBED_TABLES = 0,      /* attribute: how many */
  EMBED_FIRST = 1,       /* attributes of table i: 1 + 4 i .. : source kind, input, offset, rows */
  EMBED_S8 = 17,         /* attribute: bit i set when table i is int8 */
  /* scalars[i]: table i's scale; blobs[i]: its values */
  SOURCE_INPUT = 0,
  SOURCE_POSITION = 1,
  SOURCE_CONSTANT = 2,
  SOURCE_COUNTED = 3, /* the input's tokens are counted from offset + 1; those whose id is `offset` take that row */

  /* layernorm: in[0], in[1] residual; out[0] f32, out[1] u8; blobs gamma, beta */
  /* scalars of layernorm: epsilon, output scale; attribute 0: output zero point */

  /* quantize, dequantize: in[0], out[0]; scalars[0] scale; attribute 0: zero point */

  /* quantize_tokens: in[0]; out[0] u8, out[1] f32: a token's scale, and its zero point less 128 */

  /* rescale: in[0], in[1] such scales; out[0]; attribute 0: activation; blobs offset, bias */

  /* linear: in[0], out[0]; in[1] residual of an integer layer */
  LINEAR_K = 0,
  LINEAR_N = 1,
  LINEAR_ACTIVATION = 2,
  LINEAR_OUT_ZERO = 3,
  LINEAR_CHUNK = 4, /* sparse: input channels of one chunk; a multiple of 4 where they are uint8 */
  LINEAR_FINISH = 4, /* code: its spw_finish */
  /* scalars[0]: output scale */
  BLOB_WEIGHTS = 0,
  BLOB_BIAS = 1,
  BLOB_SCALE = 2,
  BLOB_CORRECTION = 3,
  BLOB_STARTS = 4, /* code: its parts */
  BLOB_INDICES = 5,

  /* attention: in[0..2] query, key, value; out[0]; scalars: score scale, mask value, then the scales of
   * query, key, value, probabilities, output; blob 0: the bias of positions */
  ATTENTION_HEADS = 0,
  ATTENTION_HEAD_DIM = 1,
  ATTENTION_MASK = 2,
  ATTENTION_ZERO = 3, /* 3..7: the zero points of query, key, value, probabilities, output */
  ATTENTION_BIAS = 8, /* most tokens that the bias of positions is for, or 0; float32 only */

  /* add: in[0], in[1], out[0]; activate: in[0], out[0], attribute 0: activation; select: in[0], out[0] */

  /* output: in[0]; attribute 0: column or SPW_ABSENT */
};

#endif
