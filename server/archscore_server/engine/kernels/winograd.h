/* 3x3 convolutions with stride 1 and padding 1 by Winograd's F(2x2, 3x3): 16 products for 4 outputs in place of 36
 * (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016). Included by blocks.h, for vectors of 16.
 *
 * Channels come in blocks of 16 lanes, tiles in batches of TILES. A tile is 4x4 inputs for 2x2 outputs; transformed, it has
 * 16 points: for each point, what is left is a matrix product over channels.
 */

#define TILES 16

/* Column x of the four rows of a tile, transformed along the rows; `from` is at row y of the column. */
static inline __attribute__((always_inline)) void NAME(transform_column)(const float *from, int64_t line, int64_t y,
                                                                         int64_t h, int inside, VECTOR *t) {
  VECTOR none = {0};
  VECTOR d0 = inside && y >= 0 ? NAME(load)(from) : none, d1 = inside ? NAME(load)(from + line) : none;
  VECTOR d2 = inside ? NAME(load)(from + 2 * line) : none, d3 = inside && y + 3 < h ? NAME(load)(from + 3 * line) : none;
  t[0] = d0 - d2;
  t[1] = d1 + d2;
  t[2] = d2 - d1;
  t[3] = d1 - d3;
}

/* The transformed inputs of a batch of tiles, [16, TILES, row]. Beyond the last tile they are left as they are. */
static void NAME(transform_input)(const float *map, int64_t h, int64_t w, int64_t channels, int64_t first, int64_t tiles,
                                  int64_t row, float *points) {
  int64_t across = w / 2, line = w * channels, top = first / across * 2 - 1, left = first % across * 2 - 1;
  for (int64_t block = 0; block < channels; block += LANES) {
    VECTOR t[4][4] = {0}; /* by column: neighbours share two */
    int64_t y = top, x = left;
    for (int64_t tile = 0; tile < tiles; tile++) {
      const float *from = map + y * line + x * channels + block;
      if (tile && x > 0)
        for (int i = 0; i < 4; i++) {
          t[0][i] = t[2][i];
          t[1][i] = t[3][i];
        }
      else {
        NAME(transform_column)(from, line, y, h, x >= 0, t[0]);
        NAME(transform_column)(from + channels, line, y, h, 1, t[1]);
      }
      NAME(transform_column)(from + 2 * channels, line, y, h, 1, t[2]);
      NAME(transform_column)(from + 3 * channels, line, y, h, x + 3 < w, t[3]);
      for (int i = 0; i < 4; i++) {
        float *to = points + (i * 4 * TILES + tile) * row + block;
        NAME(store)(to, t[0][i] - t[2][i]);
        NAME(store)(to + TILES * row, t[1][i] + t[2][i]);
        NAME(store)(to + 2 * TILES * row, t[2][i] - t[1][i]);
        NAME(store)(to + 3 * TILES * row, t[1][i] - t[3][i]);
      }
      x += 2;
      if (x + 1 == w) {
        x = -1;
        y += 2;
      }
    }
  }
}

/* The transformed gradients of a batch of tiles' outputs, [16, TILES, row]. */
static inline __attribute__((always_inline)) void NAME(transform_gradient)(const float *map, int64_t w, int64_t channels,
                                                                           int64_t first, int64_t tiles, int64_t row,
                                                                           float *points) {
  int64_t across = w / 2, top = first / across * 2, left = first % across * 2;
  for (int64_t tile = 0; tile < tiles; tile++) {
    for (int64_t block = 0; block < channels; block += LANES) {
      const float *from = map + (top * w + left) * channels + block;
      VECTOR t[4][2];
      for (int j = 0; j < 2; j++) {
        VECTOR a = NAME(load)(from + j * channels), b = NAME(load)(from + (w + j) * channels);
        t[0][j] = a;
        t[1][j] = a + b;
        t[2][j] = a - b;
        t[3][j] = -b;
      }
      for (int i = 0; i < 4; i++) {
        float *to = points + (i * 4 * TILES + tile) * row + block;
        NAME(store)(to, t[i][0]);
        NAME(store)(to + TILES * row, t[i][0] + t[i][1]);
        NAME(store)(to + 2 * TILES * row, t[i][0] - t[i][1]);
        NAME(store)(to + 3 * TILES * row, -t[i][1]);
      }
    }
    left += 2;
    if (left == w) {
      left = 0;
      top += 2;
    }
  }
}

/* Weights [out, in, 3, 3] as points [16, in, out]; backward those of the gradient, turned around, as [16, out, in]. */
static void NAME(transform_weights)(const float *weights, int64_t in, int64_t out, int backward, float *points) {
  int64_t from = backward ? out : in, to = backward ? in : out;
  for (int64_t a = 0; a < from; a++)
    for (int64_t block = 0; block < to; block += LANES) {
      float gathered[9][LANES];
      for (int lane = 0; lane < LANES; lane++) {
        const float *own = weights + (backward ? a * in + block + lane : (block + lane) * in + a) * 9;
        for (int k = 0; k < 9; k++) gathered[backward ? 8 - k : k][lane] = own[k];
      }
      VECTOR t[4][3];
      for (int j = 0; j < 3; j++) {
        VECTOR g0 = NAME(load)(gathered[j]), g1 = NAME(load)(gathered[3 + j]), g2 = NAME(load)(gathered[6 + j]);
        t[0][j] = g0;
        t[1][j] = (g0 + g1 + g2) * 0.5f;
        t[2][j] = (g0 - g1 + g2) * 0.5f;
        t[3][j] = g2;
      }
      for (int i = 0; i < 4; i++) {
        float *own = points + (i * 4 * from + a) * to + block;
        NAME(store)(own, t[i][0]);
        NAME(store)(own + from * to, (t[i][0] + t[i][1] + t[i][2]) * 0.5f);
        NAME(store)(own + 2 * from * to, (t[i][0] - t[i][1] + t[i][2]) * 0.5f);
        NAME(store)(own + 3 * from * to, t[i][2]);
      }
    }
}

/* Marks the pixels of a sample that are not 0 in all channels, in a frame of zeros [h + 2, w + 2]; whether all are. */
static int NAME(mark)(const float *map, int64_t h, int64_t w, int64_t channels, uint8_t *marks) {
  int all = 1;
  memset(marks, 0, (size_t)((h + 2) * (w + 2)));
  for (int64_t y = 0; y < h; y++)
    for (int64_t x = 0; x < w; x++) {
      const float *pixel = map + (y * w + x) * channels;
      int marked = 0;
      for (int64_t block = 0; block < channels && !marked; block += LANES)
        marked = _mm512_cmp_ps_mask((__m512)NAME(load)(pixel + block), _mm512_setzero_ps(), _CMP_NEQ_UQ) != 0;
      marks[(y + 1) * (w + 2) + x + 1] = (uint8_t)marked;
      all &= marked;
    }
  return all;
}

/* See convolve. A transformed tile is `row` entries from the next one: a constant, for the compiler's sake, and an odd number
 * of cache lines, for the cache's. */
static inline __attribute__((always_inline)) void NAME(convolve_by)(const struct convolution *own, const float *map,
                                                                    float *to, float *scratch, uint8_t *marks,
                                                                    const int row) {
  int64_t h = own->h, w = own->w, in = own->in, out = own->out, across = w / 2, all = h / 2 * across;
  float *points = scratch, *products = scratch + 16 * TILES * row;
  if (marks && NAME(mark)(map, h, w, in, marks)) marks = NULL;
  for (int64_t first = 0; first < all; first += TILES) {
    int64_t tiles = all - first < TILES ? all - first : TILES;
    NAME(transform_input)(map, h, w, in, first, tiles, row, points);
    for (int64_t block = 0; block < out; block += LANES) {
      for (int point = 0; point < 16; point++) {
        const float *v = points + point * TILES * row, *u = own->points + point * in * out + block;
        VECTOR sums[TILES];
#pragma GCC unroll 16
        for (int tile = 0; tile < TILES; tile++) sums[tile] = (VECTOR){0};
        for (int64_t i = 0; i < in; i++) {
          VECTOR weight = NAME(load)(u + i * out);
#pragma GCC unroll 16
          for (int tile = 0; tile < TILES; tile++) sums[tile] += weight * v[tile * row + i];
        }
#pragma GCC unroll 16
        for (int tile = 0; tile < TILES; tile++) NAME(store)(products + (point * TILES + tile) * LANES, sums[tile]);
      }
      int64_t top = first / across * 2, left = first % across * 2;
      for (int64_t tile = 0; tile < tiles; tile++) {
        const float *m = products + tile * LANES;
        VECTOR t[2][4];
        for (int j = 0; j < 4; j++) {
          VECTOR m0 = NAME(load)(m + j * TILES * LANES), m1 = NAME(load)(m + (4 + j) * TILES * LANES);
          VECTOR m2 = NAME(load)(m + (8 + j) * TILES * LANES), m3 = NAME(load)(m + (12 + j) * TILES * LANES);
          t[0][j] = m0 + m1 + m2;
          t[1][j] = m1 - m2 - m3;
        }
        for (int i = 0; i < 2; i++) {
          float *at = to + ((top + i) * w + left) * out + block;
          NAME(store)(at, t[i][0] + t[i][1] + t[i][2]);
          NAME(store)(at + out, t[i][1] - t[i][2] - t[i][3]);
        }
        left += 2;
        if (left == w) {
          left = 0;
          top += 2;
        }
      }
    }
  }
  if (!marks) return;
  for (int64_t y = 0; y < h; y++)
    for (int64_t x = 0; x < w; x++) {
      int marked = 0;
      for (int64_t i = 0; i < 3; i++)
        for (int64_t j = 0; j < 3; j++) marked |= marks[(y + i) * (w + 2) + x + j];
      if (!marked) memset(to + (y * w + x) * out, 0, (size_t)out * sizeof(float));
    }
}

/* One sample: to[h, w, out] from map[h, w, in]. `scratch`: BATCH entries; `marks`: (h + 2) * (w + 2), or NULL where what is a
 * sum of zeros need not be 0. */
static void NAME(convolve)(const struct convolution *own, const float *map, float *to, float *scratch, uint8_t *marks) {
  if (own->in <= 16)
    NAME(convolve_by)(own, map, to, scratch, marks, 16);
  else if (own->in <= 48)
    NAME(convolve_by)(own, map, to, scratch, marks, 48);
  else if (own->in <= 80)
    NAME(convolve_by)(own, map, to, scratch, marks, 80);
  else
    NAME(convolve_by)(own, map, to, scratch, marks, 144);
}

/* One sample's part of the gradients of the weights, as points [16, in, out]. `scratch`: BATCH entries. */
static void NAME(correlate)(const struct convolution *own, const float *map, const float *gradient, float *points,
                            float *scratch) {
  int64_t h = own->h, w = own->w, in = own->in, out = own->out, all = h / 2 * (w / 2);
  float *inputs = scratch, *gradients = scratch + 16 * TILES * in;
  for (int64_t first = 0; first < all; first += TILES) {
    int64_t tiles = all - first < TILES ? all - first : TILES;
    NAME(transform_input)(map, h, w, in, first, tiles, in, inputs);
    NAME(transform_gradient)(gradient, w, out, first, tiles, out, gradients);
    for (int point = 0; point < 16; point++)
      for (int64_t rows = 0; rows < in; rows += LANES)
        for (int64_t block = 0; block < out; block += LANES) {
          const float *v = inputs + point * TILES * in + rows, *g = gradients + point * TILES * out + block;
          float *at = points + (point * in + rows) * out + block;
          VECTOR sums[LANES];
#pragma GCC unroll 16
          for (int row = 0; row < LANES; row++) sums[row] = NAME(load)(at + row * out);
          for (int64_t tile = 0; tile < tiles; tile++) {
            VECTOR own_gradient = NAME(load)(g + tile * out);
#pragma GCC unroll 16
            for (int row = 0; row < LANES; row++) sums[row] += own_gradient * v[tile * in + row];
          }
#pragma GCC unroll 16
          for (int row = 0; row < LANES; row++) NAME(store)(at + row * out, sums[row]);
        }
  }
}

/* Gradients of the weights [out, in, 3, 3] from points [16, in, out]. */
static void NAME(gather_weights)(const float *points, int64_t in, int64_t out, float *gradients) {
  for (int64_t a = 0; a < in; a++)
    for (int64_t block = 0; block < out; block += LANES) {
      VECTOR t[3][4];
      for (int j = 0; j < 4; j++) {
        const float *own = points + (j * in + a) * out + block;
        VECTOR m0 = NAME(load)(own), m1 = NAME(load)(own + 4 * in * out), m2 = NAME(load)(own + 8 * in * out),
               m3 = NAME(load)(own + 12 * in * out);
        t[0][j] = m0 + (m1 + m2) * 0.5f;
        t[1][j] = (m1 - m2) * 0.5f;
        t[2][j] = (m1 + m2) * 0.5f + m3;
      }
      for (int i = 0; i < 3; i++) {
        VECTOR k[3] = {t[i][0] + (t[i][1] + t[i][2]) * 0.5f, (t[i][1] - t[i][2]) * 0.5f,
                       (t[i][1] + t[i][2]) * 0.5f + t[i][3]};
        for (int j = 0; j < 3; j++)
          for (int lane = 0; lane < LANES; lane++)
            gradients[((block + lane) * in + a) * 9 + i * 3 + j] = k[j][lane];
      }
    }
}

#undef TILES
