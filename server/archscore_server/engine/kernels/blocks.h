/* The loops, once for each instruction set: kernels.c includes this file with ISA, LANES and perhaps WIDE_POPCOUNT set.
 *
 * A map is [hw, c] floats of one sample, channels innermost. Numbers per channel come repeated to `period` entries, a
 * multiple of both c and GROUP, so that a loop over `period` entries is a loop over whole vectors; what is left of a map
 * that is no multiple of it is looped over one by one.
 */

#define NAME_(name, isa) name##_##isa
#define NAME__(name, isa) NAME_(name, isa)
#define NAME(name) NAME__(name, ISA)

typedef float NAME(lanes) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t NAME(ints) __attribute__((vector_size(4 * LANES)));
#define VECTOR NAME(lanes)
#define UNROLLED 4
#define GROUP (UNROLLED * LANES)

static inline VECTOR NAME(load)(const float *from) { return *(const VECTOR *)from; }
static inline void NAME(store)(float *to, VECTOR value) { *(VECTOR *)to = value; }

/* Entries above 0, in the order of the lanes. */
static inline uint32_t NAME(positive)(VECTOR value) {
#if defined(__AVX512F__) && LANES == 16
  return _mm512_cmp_ps_mask((__m512)value, _mm512_setzero_ps(), _CMP_GT_OQ);
#elif defined(__AVX__) && LANES == 8
  return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps((__m256)value, _mm256_setzero_ps(), _CMP_GT_OQ));
#else
  uint32_t bits = 0;
  for (int lane = 0; lane < LANES; lane++) bits |= (uint32_t)(value[lane] > 0) << lane;
  return bits;
#endif
}

static void NAME(codes)(const float *map, int64_t size, int64_t bytes, uint8_t *bits) {
  int64_t whole = size / LANES * LANES;
  for (int64_t i = 0; i < whole; i += LANES) {
    uint32_t own = NAME(positive)(NAME(load)(map + i));
    memcpy(bits + i / 8, &own, LANES / 8);
  }
  memset(bits + whole / 8, 0, (size_t)(bytes - whole / 8));
  for (int64_t i = whole; i < size; i++) bits[i / 8] |= (uint8_t)((map[i] > 0) << (i % 8));
}

/* Adds up y - origin and its square, per channel. */
static void NAME(moments)(const float *y, int64_t hw, int64_t c, int64_t period, const float *origin, double *sum,
                          double *square) {
  int64_t size = hw * c, whole = size / period * period;
  for (int64_t group = 0; group < period && whole; group += GROUP) {
    VECTOR k[UNROLLED], s[UNROLLED], q[UNROLLED];
    for (int u = 0; u < UNROLLED; u++) {
      k[u] = NAME(load)(origin + group + u * LANES);
      s[u] = q[u] = (VECTOR){0};
    }
    for (int64_t i = group; i < whole; i += period) {
#pragma GCC unroll 4
      for (int u = 0; u < UNROLLED; u++) {
        VECTOR d = NAME(load)(y + i + u * LANES) - k[u];
        s[u] += d;
        q[u] += d * d;
      }
    }
    for (int u = 0; u < UNROLLED; u++)
      for (int lane = 0; lane < LANES; lane++) {
        int64_t channel = (group + u * LANES + lane) % c;
        sum[channel] += s[u][lane];
        square[channel] += q[u][lane];
      }
  }
  for (int64_t i = whole; i < size; i++) {
    float d = y[i] - origin[i % c];
    sum[i % c] += d;
    square[i % c] += d * d;
  }
}

/* total = addend, or addend * scale + offset; or that is added to it. */
static inline __attribute__((always_inline)) void NAME(add_part)(float *total, const float *addend, int64_t size,
                                                                 int64_t period, const float *scale,
                                                                 const float *offset, const int first) {
  int64_t whole = scale ? size / period * period : size / GROUP * GROUP;
  if (scale) {
    for (int64_t i = 0; i < whole; i += period)
      for (int64_t group = 0; group < period; group += GROUP)
#pragma GCC unroll 4
        for (int u = 0; u < UNROLLED; u++) {
          int64_t j = group + u * LANES;
          VECTOR value = NAME(load)(addend + i + j) * NAME(load)(scale + j) + NAME(load)(offset + j);
          if (!first) value += NAME(load)(total + i + j);
          NAME(store)(total + i + j, value);
        }
    for (int64_t i = whole; i < size; i++) {
      float value = addend[i] * scale[i % period] + offset[i % period];
      total[i] = first ? value : total[i] + value;
    }
  } else {
    for (int64_t i = 0; i < whole; i += GROUP)
#pragma GCC unroll 4
      for (int u = 0; u < UNROLLED; u++) {
        VECTOR value = NAME(load)(addend + i + u * LANES);
        if (!first) value += NAME(load)(total + i + u * LANES);
        NAME(store)(total + i + u * LANES, value);
      }
    for (int64_t i = whole; i < size; i++) total[i] = first ? addend[i] : total[i] + addend[i];
  }
}

/* The entries where the mask is not at or below 0 (so NaN stays NaN), else 0. */
static void NAME(rectify)(float *to, const float *from, const float *mask, int64_t size) {
  int64_t whole = size / GROUP * GROUP;
  for (int64_t i = 0; i < whole; i += LANES) {
    VECTOR value = NAME(load)(from + i), by = NAME(load)(mask + i);
    NAME(store)(to + i, (VECTOR)((NAME(ints))value & ~(NAME(ints))(by <= 0)));
  }
  for (int64_t i = whole; i < size; i++) to[i] = mask[i] <= 0 ? 0 : from[i];
}

/* Of one sample: the sum of its parts, where it is above 0, and codes. */
static void NAME(join)(const struct join *own, int64_t sample, float *buffer) {
  int64_t size = own->hw * own->c, block = own->period * (BUFFER / own->period ? BUFFER / own->period : 1);
  for (int64_t start = 0; start < size; start += block) {
    int64_t length = size - start < block ? size - start : block, at = sample * size + start;
    /* a block is whole bytes, but for the last one, which ends the sample */
    int64_t bytes = start + length == size ? own->bytes - start / 8 : length / 8;
    for (int64_t part = 0; part < own->parts; part++) /* first, for the memory of parts may be taken */
      if (own->part_bits[part])
        NAME(codes)(own->data[part] + at, length, bytes, own->part_bits[part] + sample * own->bytes + start / 8);
    const float *total = NULL;
    if (own->parts == 1 && !own->statistics[0]) {
      total = own->data[0] + at;
      if (own->sum) memcpy(own->sum + at, total, (size_t)length * sizeof(float));
    } else if (own->sum || own->rectified || own->bits) {
      float *adding = own->sum ? own->sum + at : buffer;
      for (int64_t part = 0; part < own->parts; part++) {
        const float *scale = own->statistics[part], *offset = scale ? scale + OFFSET * own->period : NULL;
        if (part)
          NAME(add_part)(adding, own->data[part] + at, length, own->period, scale, offset, 0);
        else
          NAME(add_part)(adding, own->data[part] + at, length, own->period, scale, offset, 1);
      }
      total = adding;
    }
    if (own->bits) NAME(codes)(total, length, bytes, own->bits + sample * own->bytes + start / 8);
    if (own->rectified) NAME(rectify)(own->rectified + at, total, total, length);
  }
}

/* Of one sample: the gradient of a sum, and what BatchNorm's derivative needs of it: the sums per channel of the gradient
 * (first) and of the gradient times each normalised part less its mean. */
static void NAME(unjoin)(const struct unjoin *own, int64_t sample, double *sums) {
  int64_t size = own->hw * own->c, period = own->period;
  int64_t block = period * (BUFFER / period ? BUFFER / period : 1);
  for (int64_t start = 0; start < size; start += block) {
    int64_t length = size - start < block ? size - start : block, at = sample * size + start;
    float *g = own->gradient + at;
    for (int64_t part = 0; part < own->rectified; part++) {
      const float *from = own->of_rectified[part] + at;
      if (part)
        NAME(add_part)(g, from, length, period, NULL, NULL, 0);
      else if (from != g)
        NAME(add_part)(g, from, length, period, NULL, NULL, 1);
    }
    if (own->rectified) NAME(rectify)(g, g, own->mask + at, length);
    for (int64_t part = 0; part < own->plain; part++) {
      const float *from = own->of_plain[part] + at;
      if (part || own->rectified)
        NAME(add_part)(g, from, length, period, NULL, NULL, 0);
      else if (from != g)
        NAME(add_part)(g, from, length, period, NULL, NULL, 1);
    }
    if (!own->parts) continue;
    int64_t whole = length / period * period;
    for (int64_t group = 0; group < period && whole; group += GROUP) {
      VECTOR s[UNROLLED];
      for (int u = 0; u < UNROLLED; u++) s[u] = (VECTOR){0};
      for (int64_t i = group; i < whole; i += period)
#pragma GCC unroll 4
        for (int u = 0; u < UNROLLED; u++) s[u] += NAME(load)(g + i + u * LANES);
      for (int u = 0; u < UNROLLED; u++)
        for (int lane = 0; lane < LANES; lane++) sums[(group + u * LANES + lane) % own->c] += s[u][lane];
    }
    for (int64_t i = whole; i < length; i++) sums[i % own->c] += g[i];
    for (int64_t part = 0; part < own->parts; part++) {
      const float *y = own->data[part] + at, *mean = own->statistics[part] + MEAN * period;
      double *products = sums + (part + 1) * own->c;
      for (int64_t group = 0; group < period && whole; group += GROUP) {
        VECTOR k[UNROLLED], s[UNROLLED];
        for (int u = 0; u < UNROLLED; u++) {
          k[u] = NAME(load)(mean + group + u * LANES);
          s[u] = (VECTOR){0};
        }
        for (int64_t i = group; i < whole; i += period)
#pragma GCC unroll 4
          for (int u = 0; u < UNROLLED; u++)
            s[u] += NAME(load)(g + i + u * LANES) * (NAME(load)(y + i + u * LANES) - k[u]);
        for (int u = 0; u < UNROLLED; u++)
          for (int lane = 0; lane < LANES; lane++) products[(group + u * LANES + lane) % own->c] += s[u][lane];
      }
      for (int64_t i = whole; i < length; i++) products[i % own->c] += g[i] * (y[i] - mean[i % own->c]);
    }
  }
}

/* Of one sample: the gradients of normalised parts, a * g + b * y + c, the factors per channel. */
static void NAME(unnormalise)(const struct unjoin *own, int64_t sample) {
  int64_t size = own->hw * own->c, period = own->period;
  int64_t block = period * (BUFFER / period ? BUFFER / period : 1);
  for (int64_t start = 0; start < size; start += block) {
    int64_t length = size - start < block ? size - start : block, at = sample * size + start;
    int64_t whole = length / period * period;
    const float *g = own->gradient + at;
    for (int64_t part = 0; part < own->parts; part++) {
      const float *y = own->data[part] + at;
      const float *a = own->factors[part], *b = a + period, *c = b + period;
      float *to = own->gradients[part] + at;
      for (int64_t i = 0; i < whole; i += period)
        for (int64_t group = 0; group < period; group += GROUP)
#pragma GCC unroll 4
          for (int u = 0; u < UNROLLED; u++) {
            int64_t j = group + u * LANES;
            NAME(store)
            (to + i + j, NAME(load)(g + i + j) * NAME(load)(a + j) + NAME(load)(y + i + j) * NAME(load)(b + j) +
                             NAME(load)(c + j));
          }
      for (int64_t i = whole; i < length; i++) to[i] = g[i] * a[i % period] + y[i] * b[i % period] + c[i % period];
    }
  }
}

/* to = a * x + b * y + c * z, where NULL is 0. */
static void NAME(add_rows)(float *restrict to, const float *x, float a, const float *y, float b, const float *z, float c,
                           int64_t size) {
  if (x && z)
    for (int64_t i = 0; i < size; i++) to[i] = a * x[i] + b * y[i] + c * z[i];
  else if (x)
    for (int64_t i = 0; i < size; i++) to[i] = a * x[i] + b * y[i];
  else if (z)
    for (int64_t i = 0; i < size; i++) to[i] = b * y[i] + c * z[i];
  else
    for (int64_t i = 0; i < size; i++) to[i] = b * y[i];
}

/* Of one sample: the sum over each entry's 3x3 neighbours that lie inside, times their share. Forward the share is that of
 * the entry itself, backward that of each neighbour; both are a product of one for rows and one for columns, and that of
 * columns is the same but for the first and the last. */
static void NAME(pool)(const struct pool *own, int64_t sample, float *row) {
  int64_t h = own->h, w = own->w, c = own->c, width = w * c;
  const float *from = own->from + sample * h * width;
  float *to = own->to + sample * h * width;
  float edge = own->columns[0], middle = w > 2 ? own->columns[1] : edge;
  for (int64_t y = 0; y < h; y++) {
    const float *rows = own->rows + y, *at = from + y * width;
    float above = y > 0 ? own->backward ? rows[-1] : rows[0] : 0, below = y < h - 1 ? own->backward ? rows[1] : rows[0] : 0;
    NAME(add_rows)(row, y > 0 ? at - width : NULL, above, at, rows[0], y < h - 1 ? at + width : NULL, below, width);
    float *out = to + y * width;
    if (w == 1) {
      memcpy(out, row, (size_t)c * sizeof(float));
      continue;
    }
    float outer = own->backward ? edge : middle; /* of the neighbour of an edge column that is an edge column itself */
    NAME(add_rows)(out, NULL, 0, row, edge, row + c, own->backward ? middle : edge, c);
    if (w == 2) {
      NAME(add_rows)(out + c, row, edge, row + c, edge, NULL, 0, c);
      continue;
    }
    NAME(add_rows)(out + c, row, outer, row + c, middle, row + 2 * c, w == 3 ? outer : middle, c);
    if (w > 3) {
      NAME(add_rows)(out + 2 * c, row + c, middle, row + 2 * c, middle, row + 3 * c, middle, (w - 4) * c);
      int64_t last = (w - 2) * c;
      NAME(add_rows)(out + last, row + last - c, middle, row + last, middle, row + last + c, outer, c);
    }
    NAME(add_rows)(out + width - c, row + width - 2 * c, own->backward ? middle : edge, row + width - c, edge, NULL, 0, c);
  }
}

static void NAME(overlaps)(const uint64_t *bits, int64_t samples, int64_t words, int64_t row, int32_t *to) {
  const uint64_t *a = bits + row * words;
  for (int64_t other = 0; other <= row; other++) {
    const uint64_t *b = bits + other * words;
    int64_t both = 0;
    for (int64_t i = 0; i < words; i++) both += __builtin_popcountll(a[i] & b[i]);
    to[row * samples + other] = to[other * samples + row] = (int32_t)both;
  }
}

#if LANES == 16
#include "winograd.h"
#endif

#undef NAME_
#undef NAME__
#undef NAME
#undef VECTOR
#undef UNROLLED
#undef GROUP
#undef ISA
#undef LANES
