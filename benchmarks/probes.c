/* What one core can do at most: float32 multiply-adds, and bytes read and copied in each level of memory.
   Prints one JSON object. Best of several tries: other programs only ever slow a try down. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

typedef float Vector __attribute__((vector_size(VECTOR_BYTES)));
enum { LANES = VECTOR_BYTES / sizeof(float), CHAINS = 12, TRIES = 15 };

static volatile float sink;

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

static float total(const Vector *values, int count) {
  float sum = 0;
  for (int i = 0; i < count; i++)
    for (int lane = 0; lane < LANES; lane++) sum += values[i][lane];
  return sum;
}

/* Independent chains of multiply-adds in registers, enough to hide their latency. Returns GFLOP/s. */
static double multiply_adds(void) {
  const long rounds = 2000000;
  double best = 1e9;
  for (int try = 0; try < TRIES; try++) {
    Vector scale, shift, chain[CHAINS];
    for (int lane = 0; lane < LANES; lane++) scale[lane] = 0.999f + 1e-9f * try, shift[lane] = 1e-3f;
    for (int i = 0; i < CHAINS; i++) chain[i] = shift * (float)i;
    double start = seconds();
    for (long round = 0; round < rounds; round++) {
#pragma GCC unroll 12
      for (int i = 0; i < CHAINS; i++) chain[i] = chain[i] * scale + shift;
    }
    double time = seconds() - start;
    sink = total(chain, CHAINS);
    if (time < best) best = time;
  }
  return 2.0 * LANES * CHAINS * rounds / best * 1e-9;
}

/* Bytes read a second, in GB/s, going again and again over a buffer of this size. */
static double reading(const Vector *from, size_t bytes) {
  const size_t vectors = bytes / sizeof(Vector), passes = 1 + ((size_t)128 << 20) / bytes;
  double best = 1e9;
  for (int try = 0; try < TRIES; try++) {
    Vector sum[8];
    memset(sum, 0, sizeof sum);
    double start = seconds();
    for (size_t pass = 0; pass < passes; pass++) {
      for (size_t i = 0; i < vectors; i += 8) {
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) sum[j] += from[i + j];
      }
    }
    double time = seconds() - start;
    sink = total(sum, 8);
    if (time < best) best = time;
  }
  return bytes * passes / best * 1e-9;
}

/* Bytes read and written a second, in GB/s, when copying half of a buffer of this size to its other half. */
static double copying(Vector *buffer, size_t bytes) {
  const size_t passes = 1 + ((size_t)128 << 20) / bytes;
  char *half = (char *)buffer + bytes / 2;
  double best = 1e9;
  for (int try = 0; try < TRIES; try++) {
    double start = seconds();
    for (size_t pass = 0; pass < passes; pass++) {
      memcpy(half, buffer, bytes / 2);
      __asm__ volatile("" : : "r"(half) : "memory");
    }
    double time = seconds() - start;
    if (time < best) best = time;
  }
  return bytes * passes / best * 1e-9;
}

int main(void) {
  const size_t sizes[] = {32 << 10, 512 << 10, 4 << 20, 128 << 20}, largest = 128 << 20;
  Vector *buffer = aligned_alloc(64, largest);
  if (!buffer) return 1;
  for (size_t i = 0; i < largest / sizeof(float); i++) ((float *)buffer)[i] = 1e-6f * (i % 1000);
  printf("{\"gflops\": %.1f, \"bandwidth\": [", multiply_adds());
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
    printf("%s{\"bytes\": %zu, \"read_gbs\": %.1f, \"copy_gbs\": %.1f}", i ? ", " : "", sizes[i],
           reading(buffer, sizes[i]), copying(buffer, sizes[i]));
  printf("]}\n");
  free(buffer);
}
