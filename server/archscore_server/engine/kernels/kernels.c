/* What torch does in several sweeps over a map, done in one: see the package's docstring.
 *
 * Plain C, called through ctypes: no headers of Python or torch, so one build serves all their versions. The loops are in
 * blocks.h, compiled for each instruction set, and the best that the CPU has is taken when the library is loaded. Work is
 * shared among the threads of the OpenMP runtime that the process has already (torch's): a second one beside it would
 * fight it for the cores. Maps are [N, H, W, C] float32, dense.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* Entries of a block of a map: what is summed up in it stays in the first cache. */
#define BUFFER 2048

struct join {
  int64_t samples, hw, c, period, parts, bytes;
  const float *const *data;  /* [parts] maps */
  float *const *statistics;  /* [parts] of those that are normalised, else NULL: [4, period], see STATISTICS */
  float *sum;                /* or NULL; may be the first part */
  float *rectified;          /* or NULL; may be any other part */
  uint8_t *bits;             /* codes of the sum, [samples, bytes], or NULL */
  uint8_t *const *part_bits; /* [parts] codes of parts, or NULL each */
  double eps;
};

/* Rows of statistics: normalised is y * FACTOR + OFFSET. */
enum { FACTOR, OFFSET, MEAN, VARIANCE, STATISTICS };

struct unjoin {
  int64_t samples, hw, c, period, plain, rectified, parts;
  const float *const *of_plain;     /* [plain] gradients of the sum */
  const float *const *of_rectified; /* [rectified] gradients of what was rectified */
  const float *mask;                /* these count where it is above 0 */
  const float *const *data;         /* [parts] normalised maps */
  const float *const *statistics;   /* [parts] */
  float *gradient;                  /* of the sum; may be the first one of what was rectified, or else of the sum */
  float *const *gradients;          /* [parts] of the maps */
  float *const *factors;            /* [parts] scratch, [3, period] */
};

/* A 3x3 convolution with stride 1 and padding 1, as winograd.h has it. */
struct convolution {
  int64_t samples, h, w, in, out; /* h and w even, in and out multiples of 16 */
  const float *map;               /* [samples, h, w, in] */
  const float *weights;           /* [out, in, 3, 3] */
  const float *gradient;          /* of the output, [samples, h, w, out], or NULL */
  float *output;                  /* [samples, h, w, out], or NULL */
  float *of_map;                  /* takes the map's gradient, or NULL */
  float *of_weights;              /* takes the weights', or NULL */
  const float *points;            /* weights, transformed; set here */
};

/* Entries of scratch memory for a batch of 16 tiles in winograd.h: 16 points each, of twice 128 channels and a little more. */
#define BATCH (16 * 16 * 2 * 144)

struct pool {
  int64_t samples, h, w, c, backward;
  const float *from;
  float *to;
  const float *rows, *columns; /* the shares */
};

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,avx512vpopcntdq,prefer-vector-width=512")
#define ISA popcount
#define LANES 16
#include "blocks.h"
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,prefer-vector-width=512")
#define ISA v4
#define LANES 16
#include "blocks.h"
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#define ISA v3
#define LANES 8
#include "blocks.h"
#pragma GCC pop_options
#endif
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpsabi" /* of functions that nobody else calls */
#define ISA any
#define LANES 8
#include "blocks.h"
#pragma GCC diagnostic pop

struct set {
  void (*moments)(const float *, int64_t, int64_t, int64_t, const float *, double *, double *);
  void (*join)(const struct join *, int64_t, float *);
  void (*unjoin)(const struct unjoin *, int64_t, double *);
  void (*unnormalise)(const struct unjoin *, int64_t);
  void (*pool)(const struct pool *, int64_t, float *);
  void (*overlaps)(const uint64_t *, int64_t, int64_t, int64_t, int32_t *);
  void (*transform_weights)(const float *, int64_t, int64_t, int, float *); /* NULL without these convolutions */
  void (*convolve)(const struct convolution *, const float *, float *, float *, uint8_t *);
  void (*correlate)(const struct convolution *, const float *, const float *, float *, float *);
  void (*gather_weights)(const float *, int64_t, int64_t, float *);
  const char *name;
};

#define LOOPS(isa) moments_##isa, join_##isa, unjoin_##isa, unnormalise_##isa, pool_##isa, overlaps_##isa
#define CONVOLUTIONS(isa) transform_weights_##isa, convolve_##isa, correlate_##isa, gather_weights_##isa

static const struct set sets[] = {
#if defined(__x86_64__)
    {LOOPS(popcount), CONVOLUTIONS(popcount), "popcount"},
    {LOOPS(v4), CONVOLUTIONS(v4), "v4"},
    {LOOPS(v3), NULL, NULL, NULL, NULL, "v3"},
#endif
    {LOOPS(any), NULL, NULL, NULL, NULL, "any"}};

static int supported(int set) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  int v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
           __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi");
  int v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
  if (set == 0) return v4 && __builtin_cpu_supports("avx512vpopcntdq");
  if (set == 1) return v4;
  if (set == 2) return v3;
#endif
  (void)set;
  return 1;
}

static const struct set *chosen;
static void (*gomp_parallel)(void (*)(void *), void *, unsigned, unsigned);

/* Takes the set of that name, or with NULL the best one; 0 if the CPU has it. */
int archscore_choose(const char *name) {
  for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
    if ((!name || !strcmp(name, sets[i].name)) && supported((int)i)) {
      chosen = &sets[i];
      return 0;
    }
  return -1;
}

/* Changes with the structures and functions that Python calls. */
int archscore_version(void) { return 1; }

const char *archscore_chosen(void) { return chosen->name; }

__attribute__((constructor)) static void load(void) { archscore_choose(NULL); }

/* Work on the samples from `first` up to `last`; `share` numbers the threads' parts. */
typedef void (*work)(void *arguments, int64_t first, int64_t last, int64_t share);

struct shared {
  work run;
  void *arguments;
  int64_t samples, shares, next;
};

static void take_shares(void *data) {
  struct shared *own = data;
  /* Which thread has which share does not matter: the shares are the same whoever has them. */
  for (;;) {
    int64_t share = __atomic_fetch_add(&own->next, 1, __ATOMIC_RELAXED);
    if (share >= own->shares) return;
    own->run(own->arguments, own->samples * share / own->shares, own->samples * (share + 1) / own->shares, share);
  }
}

static int64_t shares_of(int64_t samples, int64_t threads) {
  if (!gomp_parallel) /* looked up late: torch may have been loaded after this library */
    *(void **)&gomp_parallel = dlsym(RTLD_DEFAULT, "GOMP_parallel");
  if (!gomp_parallel || threads < 1) return 1;
  return threads < samples ? threads : samples;
}

static void share(work run, void *arguments, int64_t samples, int64_t shares) {
  struct shared own = {run, arguments, samples, shares, 0};
  if (shares > 1)
    gomp_parallel(take_shares, &own, (unsigned)shares, 0);
  else
    take_shares(&own);
}

struct moments {
  const float *y;
  int64_t hw, c, period;
  const float *origin;
  double *sums; /* [shares, 2, c] */
};

static void run_moments(void *arguments, int64_t first, int64_t last, int64_t share) {
  struct moments *own = arguments;
  double *sums = own->sums + share * 2 * own->c;
  for (int64_t sample = first; sample < last; sample++)
    chosen->moments(own->y + sample * own->hw * own->c, own->hw, own->c, own->period, own->origin, sums, sums + own->c);
}

static void *zeros(int64_t count) { return calloc((size_t)count, sizeof(double)); }

/* Adds the shares' sums into the first one's. */
static void reduce(double *sums, int64_t shares, int64_t count) {
  for (int64_t share = 1; share < shares; share++)
    for (int64_t i = 0; i < count; i++) sums[i] += sums[share * count + i];
}

/* Statistics of a map; -1 if there is no memory. */
static int normalise(const struct join *own, int64_t part, int64_t shares) {
  int64_t c = own->c, period = own->period;
  const float *y = own->data[part];
  float *statistics = own->statistics[part];
  /* Around a value of its own, so that a channel that hardly varies loses nothing to its mean. */
  float *origin = statistics + MEAN * period;
  double *sums = zeros(shares * 2 * c);
  if (!sums) return -1;
  for (int64_t i = 0; i < period; i++) origin[i] = y[i % c];
  struct moments moments = {y, own->hw, c, period, origin, sums};
  share(run_moments, &moments, own->samples, shares);
  reduce(sums, shares, 2 * c);
  double count = (double)(own->samples * own->hw);
  for (int64_t i = 0; i < period; i++) {
    double shifted = sums[i % c] / count, variance = sums[c + i % c] / count - shifted * shifted;
    double mean = y[i % c] + shifted, factor = 1 / sqrt((variance < 0 ? 0 : variance) + own->eps); /* NaN stays NaN */
    statistics[FACTOR * period + i] = (float)factor;
    statistics[OFFSET * period + i] = (float)(-mean * factor);
    statistics[MEAN * period + i] = (float)mean;
    statistics[VARIANCE * period + i] = (float)(variance < 0 ? 0 : variance);
  }
  free(sums);
  return 0;
}

struct with_buffers {
  const struct join *own;
  float *buffers; /* [shares, size] */
  int64_t size;
};

static void run_join(void *arguments, int64_t first, int64_t last, int64_t share) {
  struct with_buffers *both = arguments;
  for (int64_t sample = first; sample < last; sample++)
    chosen->join(both->own, sample, both->buffers + share * both->size);
}

/* Fills in the statistics, then everything else that is asked for; -1 if there is no memory. */
int archscore_join(const struct join *own, int64_t threads) {
  int64_t shares = shares_of(own->samples, threads), size = own->period > BUFFER ? own->period : BUFFER;
  for (int64_t part = 0; part < own->parts; part++)
    if (own->statistics[part] && normalise(own, part, shares)) return -1;
  struct with_buffers both = {own, malloc((size_t)(shares * size) * sizeof(float)), size};
  if (!both.buffers) return -1;
  share(run_join, &both, own->samples, shares);
  free(both.buffers);
  return 0;
}

struct with_sums {
  const struct unjoin *own;
  double *sums; /* [shares, parts + 1, c] */
};

static void run_unjoin(void *arguments, int64_t first, int64_t last, int64_t share) {
  struct with_sums *both = arguments;
  double *sums = both->sums + share * (both->own->parts + 1) * both->own->c;
  for (int64_t sample = first; sample < last; sample++) chosen->unjoin(both->own, sample, sums);
}

static void run_unnormalise(void *arguments, int64_t first, int64_t last, int64_t share) {
  (void)share;
  for (int64_t sample = first; sample < last; sample++) chosen->unnormalise(arguments, sample);
}

/* The gradient of the sum, and from it those of the normalised maps; -1 if there is no memory. */
int archscore_unjoin(struct unjoin *own, int64_t threads) {
  int64_t shares = shares_of(own->samples, threads), c = own->c, period = own->period;
  double *sums = zeros(shares * (own->parts + 1) * c), count = (double)(own->samples * own->hw);
  if (!sums) return -1;
  struct with_sums both = {own, sums};
  share(run_unjoin, &both, own->samples, shares);
  reduce(sums, shares, (own->parts + 1) * c);
  /* d/dy = factor * (g - mean(g) - (y - mean(y)) * factor^2 * mean(g * (y - mean(y)))), as a * g + b * y + c */
  for (int64_t part = 0; part < own->parts; part++)
    for (int64_t i = 0; i < period; i++) {
      double factor = own->statistics[part][FACTOR * period + i], mean = own->statistics[part][MEAN * period + i];
      double slope = factor * factor * sums[(part + 1) * c + i % c] / count;
      own->factors[part][i] = (float)factor;
      own->factors[part][period + i] = (float)(-factor * slope);
      own->factors[part][2 * period + i] = (float)(factor * (slope * mean - sums[i % c] / count));
    }
  free(sums);
  if (own->parts) share(run_unnormalise, own, own->samples, shares);
  return 0;
}

struct with_rows {
  struct pool *own;
  float *rows; /* [shares, w, c] */
};

static void run_pool(void *arguments, int64_t first, int64_t last, int64_t share) {
  struct with_rows *own = arguments;
  float *row = own->rows + share * own->own->w * own->own->c;
  for (int64_t sample = first; sample < last; sample++) chosen->pool(own->own, sample, row);
}

int archscore_pool(struct pool *own, int64_t threads) {
  int64_t shares = shares_of(own->samples, threads);
  struct with_rows both = {own, malloc((size_t)(shares * own->w * own->c) * sizeof(float))};
  if (!both.rows) return -1;
  share(run_pool, &both, own->samples, shares);
  free(both.rows);
  return 0;
}

struct overlaps {
  const uint64_t *bits;
  int64_t samples, words;
  int32_t *to;
};

static void run_overlaps(void *arguments, int64_t first, int64_t last, int64_t share) {
  (void)share;
  struct overlaps *own = arguments;
  /* Row i takes i + 1 products: dealt from both ends, the shares are even. */
  for (int64_t i = first; i < last; i++) {
    int64_t row = i % 2 ? own->samples - 1 - i / 2 : i / 2;
    chosen->overlaps(own->bits, own->samples, own->words, row, own->to);
  }
}

/* to[i, j] = entries that are 1 in the codes of both samples. */
void archscore_overlaps(const uint64_t *bits, int64_t samples, int64_t words, int64_t threads, int32_t *to) {
  struct overlaps own = {bits, samples, words, to};
  share(run_overlaps, &own, samples, shares_of(samples, threads));
}

/* Whether archscore_convolve can be called. */
int archscore_convolves(void) { return chosen->transform_weights != NULL; }

struct with_scratch {
  struct convolution *own;
  const float *points;
  float *scratch, *sums;
  int64_t scratch_size, sums_size;
  uint8_t *marks; /* [shares, (h + 2) * (w + 2)], or NULL */
};

static void run_convolve(void *arguments, int64_t first, int64_t last, int64_t share) {
  struct with_scratch *both = arguments;
  struct convolution *own = both->own;
  uint8_t *marks = both->marks ? both->marks + share * (own->h + 2) * (own->w + 2) : NULL;
  for (int64_t sample = first; sample < last; sample++)
    chosen->convolve(own, own->map + sample * own->h * own->w * own->in, own->output + sample * own->h * own->w * own->out,
                     both->scratch + share * both->scratch_size, marks);
}

static void run_correlate(void *arguments, int64_t first, int64_t last, int64_t share) {
  struct with_scratch *both = arguments;
  struct convolution *own = both->own;
  for (int64_t sample = first; sample < last; sample++)
    chosen->correlate(own, own->map + sample * own->h * own->w * own->in,
                      own->gradient + sample * own->h * own->w * own->out, both->sums + share * both->sums_size,
                      both->scratch + share * both->scratch_size);
}

static void *aligned(int64_t count) {
  void *memory = NULL;
  return posix_memalign(&memory, 64, (size_t)count * sizeof(float)) ? NULL : memory;
}

/* output from map and weights, if there is an output; -1 if there is no memory. */
static int convolve(struct convolution *own, int backward, int64_t threads) {
  int64_t shares = shares_of(own->samples, threads), size = BATCH;
  float *points = aligned(16 * own->in * own->out), *scratch = aligned(shares * size);
  /* Where activations are 0 their sums are, exactly: codes are taken of these. Of gradients they are not. */
  uint8_t *marks = backward ? NULL : malloc((size_t)(shares * (own->h + 2) * (own->w + 2)));
  int failed = !points || !scratch || (!backward && !marks);
  if (!failed) {
    /* in and out are those of this run: backward they have changed places. */
    if (backward)
      chosen->transform_weights(own->weights, own->out, own->in, 1, points);
    else
      chosen->transform_weights(own->weights, own->in, own->out, 0, points);
    if (own->h / 2 * (own->w / 2) % 16) /* what lies beyond the last tile is multiplied, too */
      memset(scratch, 0, (size_t)(shares * size) * sizeof(float));
    own->points = points;
    struct with_scratch both = {own, points, scratch, NULL, size, 0, marks};
    share(run_convolve, &both, own->samples, shares);
  }
  free(points);
  free(scratch);
  free(marks);
  return -failed;
}

static int correlate(struct convolution *own, int64_t threads) {
  int64_t shares = shares_of(own->samples, threads), size = BATCH, sums = 16 * own->in * own->out;
  float *points = aligned(shares * sums), *scratch = aligned(shares * size);
  if (points && scratch) {
    memset(points, 0, (size_t)(shares * sums) * sizeof(float));
    struct with_scratch both = {own, NULL, scratch, points, size, sums, NULL};
    share(run_correlate, &both, own->samples, shares);
    for (int64_t share = 1; share < shares; share++)
      for (int64_t i = 0; i < sums; i++) points[i] += points[share * sums + i];
    chosen->gather_weights(points, own->in, own->out, own->of_weights);
  }
  int failed = !points || !scratch;
  free(points);
  free(scratch);
  return -failed;
}

/* Whatever is asked for of a convolution: its output, or gradients; -1 if there is no memory. */
int archscore_convolve(const struct convolution *own, int64_t threads) {
  struct convolution forward = *own;
  if (own->output && convolve(&forward, 0, threads)) return -1;
  if (own->of_map) {
    struct convolution backward = {own->samples, own->h, own->w, own->out, own->in, own->gradient, own->weights,
                                   NULL, own->of_map, NULL, NULL, NULL};
    if (convolve(&backward, 1, threads)) return -1;
  }
  struct convolution weights = *own;
  return own->of_weights ? correlate(&weights, threads) : 0;
}
