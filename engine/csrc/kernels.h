/* What every kernel computes, and on which memory. `kernels.def` lists the kernels.
 *
 * A tile is 16 tokens, one in each lane. A tile of a float32 buffer is [C][16], of a uint8 buffer [ceil(C/4)][16][4]; all
 * buffers' tiles of the same tokens lie together, and a stride is the distance to those of the next. Every lane does what
 * a scalar loop over that token would do, in the same order on every instruction set: that, and no compiler contraction,
 * is why results don't depend on the instruction set, the threads or the batch.
 *
 * A kernel computes the tiles [tile_begin, tile_end) (and rows where it has them) and writes nothing else.
 * `scratch` is the calling thread's own memory of the size that `spw_scratch_*` returns.
 */
#ifndef SPW_KERNELS_H
#define SPW_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  SPW_LANES = 16,
  SPW_TILE_GAP = 256, /* bytes beyond whole pages between tiles, else caches mistake one for another */
  SPW_ROW_BLOCK = 8, /* rows of a packed dense weight that lie together: [N/8][K/4][8][4] or [N/8][K][8] */
  SPW_SPARSE_TILES = 4, /* most tiles that one pass over a sparse weight computes, and */
  SPW_SPARSE_ROWS = 256, /* the rows whose sums wait in memory meanwhile */
  SPW_DENSE_TILES = 4, /* most tiles of one pass over a dense weight, and of attention */
  SPW_PAIR_ROWS = 128, /* rows of a sparse integer weight among which pairs are made; divides SPW_SPARSE_ROWS */
  SPW_PAIR_HEADER = 5, /* numbers that lie before a pair's indices */
  SPW_CODE_ROWS = 28, /* most rows of one part of a weight that is code */
  SPW_CODE_TILES = 4, /* fewest tiles for which it is worth to fetch such a part */
  SPW_CODE_REACH = 256, /* the groups and values that its distances reach */
  SPW_BIAS_MARGIN = 17, /* of a bias of positions: the last tile's lanes without a query read beyond it */
  SPW_TABLES = 4     /* most embedding tables that one step adds */
};

/* Kernels that write bytes know SPW_GELU_TANH as SPW_GELU, with other numbers in its table. */
typedef enum spw_activation { SPW_NONE = 0, SPW_GELU = 1, SPW_RELU = 2, SPW_TANH = 3, SPW_GELU_TANH = 4 } spw_activation;

typedef struct spw_quantization {
  float scale;
  int32_t zero_point;
} spw_quantization;

/* A buffer as a kernel sees it: the first tile, and the distance from tile to tile. */
typedef struct spw_tiles {
  uint8_t *base;
  size_t stride;
} spw_tiles;

/* y = act((sum_k x[k] w[n][k] - correction[n]) * scale[n] + bias[n]), rows padded to SPW_ROW_BLOCK. Where y is uint8, scale
 * and bias give act's argument in units of y's scale, or for GELU of its points' distance; tanh's is as it is.
 * The sparse form cuts the rows into parts of SPW_PAIR_ROWS and the input into chunks of `chunk` channels; part p's
 * chunk c begins at starts[p * chunks + c]. There the rows lie in pairs, so that a pair loads once what both multiply.
 * Of a pair `indices` has: row a and row b within the part, the number of groups of four channels in which both have
 * a block (even), in which only a, in which only b has one, then those groups, counted from the chunk's first.
 * `weights` has four bytes a block, a's and b's in turns where both have one. */
typedef struct spw_pair_start {
  uint32_t weight, index; /* blocks before it in `weights`, and numbers before it in `indices` */
} spw_pair_start;

/* The coded form has parts of spw_code_rows in `weights`, each a function (codegen.py) followed by the values of four
 * bytes that it reads: where each row's sum starts, which is less by the correction, then the blocks. Code and values
 * begin at multiples of 64 bytes, here in units of those; while it runs, it fetches `lines` of them, and up to twice
 * as many from another place. */
typedef struct spw_code_part {
  uint32_t code, start, values, lines;
} spw_code_part;

/* What a whole part does, besides its products, with the sums that are left of the tile before. */
typedef enum spw_finish { SPW_STORED = 0, SPW_FLOATS = 1, SPW_BYTES = 2, SPW_GELU_BYTES = 3, SPW_ADDED = 4 } spw_finish;

static inline uint32_t spw_code_rows(spw_finish finish) {
  static const uint8_t rows[] = {SPW_CODE_ROWS, 28, 28, 24, 28};
  return rows[finish];
}

static inline bool spw_code_writes_bytes(spw_finish finish) { return finish == SPW_BYTES || finish == SPW_GELU_BYTES; }

/* GELU(x) = max(x, 0) - g(|x|) with g(a) = a / 2 * erfc(a / sqrt(2)), or for its other form g(a) = a / 2 * (1 -
 * tanh(sqrt(2 / pi) (a + 0.044715 a^3))), for results that become bytes of some scale s. With
 * u = x / d it is max(u, 0) d / s plus a polynomial in |u|'s distance from the nearest of 16 points, of that point's
 * coefficients, lowest power first. The points are 0, 1/2, ..., 9/2 and 5, 6, ..., 10: |u| + SPW_GELU_ROUNDING is rounded
 * to halves below 2^23 and to whole numbers above, and the last four of its bits are the point's place in the table. */
#define SPW_GELU_LAST 10.49f /* g is as good as 0 beyond */
#define SPW_GELU_ROUNDING 8388603.0f
typedef struct spw_gelu {
  float fit[5][16], slope;
} spw_gelu;

/* The memory that code works on; finish.py knows the distances from `sums`. */
typedef struct spw_code_frame {
  float fit[5][16];
  uint8_t order[64]; /* of the bytes of four rows' results */
  int16_t zero_point[32];
  float zero, last, magic, slope;
  uint32_t magnitude, unused[11];
  float scale[32], bias[32]; /* of the rows whose sums are left */
  uint8_t sums[SPW_CODE_ROWS][64];
  uint8_t nowhere[SPW_CODE_ROWS][64]; /* residuals and results of sums that are left of nothing */
} spw_code_frame;

typedef struct spw_linear_u8 {
  spw_tiles x, y, residual; /* float32, added to a float32 y, or its base is NULL */
  const int8_t *weights;
  const spw_code_part *parts;
  const uint8_t *weights_end, *next_code, *next_code_end; /* of coded weights; the next are those of a later step */
  spw_finish finish;
  spw_gelu gelu; /* where that is the activation and y is uint8 */
  const spw_pair_start *starts;
  const uint16_t *indices;
  const float *scale, *bias;
  const int32_t *correction;
  uint32_t k, n, chunk;
  spw_activation activation;
  bool quantized; /* y is uint8 */
  spw_quantization out;
} spw_linear_u8;

/* y = act(sum_k x[k] w[n][k] + bias[n]), summed in k's order. The sparse form is that of the integer layer, with
 * single weights in place of blocks; it leaves out products with zero, so only where x is finite are both forms
 * equal. */
typedef struct spw_linear_f32 {
  spw_tiles x, y;
  const float *weights, *bias;
  const uint32_t *starts;
  const uint16_t *indices;
  uint32_t k, n, chunk;
  spw_activation activation;
} spw_linear_f32;

/* One sequence of the batch: where its tokens lie and how many there are. */
typedef struct spw_sequence {
  uint32_t first_tile, tokens;
} spw_sequence;

typedef struct spw_attention {
  spw_tiles q, k, v, y;
  const spw_sequence *sequences;
  const float *mask; /* added to the scores, one a token in tile order, or NULL */
  const float *bias; /* [heads][2 bias_length - 1 + SPW_BIAS_MARGIN], float32 only; element bias_length - 1 + q - k is
                      * added to the score of query q and key k; or NULL */
  uint32_t bias_length;
  uint32_t head_dim;
  float scale;
  spw_quantization q_quant, k_quant, v_quant, p_quant, out; /* the uint8 form only */
  bool quantized;                                           /* y is uint8 */
} spw_attention;

typedef struct spw_layernorm {
  spw_tiles x, residual, y, y_quantized; /* a base of NULL: absent */
  const float *gamma, *beta;
  uint32_t channels;
  float epsilon;
  spw_quantization out;
} spw_layernorm;

typedef struct spw_quantize {
  spw_tiles x, y, scales; /* scales: of tokens, only where each has its own */
  uint32_t channels;
  spw_quantization quantization; /* of y, or of x where that is dequantized */
} spw_quantize;

typedef struct spw_elementwise {
  spw_tiles x, right, y;
  uint32_t channels;
  spw_activation activation;
} spw_elementwise;

typedef struct spw_rescale {
  spw_tiles x, scales, y;
  const float *offset, *bias;
  uint32_t channels;
  spw_activation activation;
} spw_rescale;

typedef struct spw_table {
  const float *f32;
  const int8_t *s8;
  float scale;
  const uint32_t *rows; /* the table's row for each token, in tile order */
} spw_table;

typedef struct spw_embed {
  spw_tiles y;
  spw_table tables[SPW_TABLES];
  const uint8_t *present; /* 0: the lane holds no token and becomes zero */
  uint32_t table_count, channels;
} spw_embed;

typedef struct spw_kernels {
  const char *isa;
#define KERNEL(name, arguments) void(*name) arguments;
#include "kernels.def"
#undef KERNEL
  /* Only where the compiler writes machine code, else NULL: layers that are such code. */
  void (*code_s8)(const spw_linear_u8 *step, uint32_t tile_begin, uint32_t tile_end, uint32_t row_begin, uint32_t row_end,
                  void *scratch);
  /* Multiplies and adds as fast as this instruction set can, and returns how often; the sum is there to be used. */
  uint64_t (*probe_s8)(uint32_t rounds, uint32_t *sum), (*probe_f32)(uint32_t rounds, uint32_t *sum);
} spw_kernels;

size_t spw_scratch_sparse(void);
size_t spw_scratch_attention_f32(uint32_t tokens);
size_t spw_scratch_attention_u8(uint32_t tokens, uint32_t head_dim);

/* The table of a named instruction set, or NULL when this build or this CPU lacks it; NULL: the best. */
const spw_kernels *spw_kernels_find(const char *isa);

#endif
