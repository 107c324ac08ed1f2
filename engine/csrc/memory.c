#include "memory.h"

#include <stdlib.h>
#include <string.h>

#include "sparrow.h"

#ifdef SPARROW_TESTING
#include <stdatomic.h>

static atomic_llong countdown;
static atomic_llong live;

void spw_test_fail_allocation(int64_t n) { atomic_store(&countdown, n); }
int64_t spw_test_live_allocations(void) { return atomic_load(&live); }

static int refused(void) { return atomic_load(&countdown) > 0 && atomic_fetch_sub(&countdown, 1) == 1; }
static void count(int change) { atomic_fetch_add(&live, change); }
#else
static int refused(void) { return 0; }
static void count(int change) { (void)change; }
#endif

void *spw_allocate(size_t size_bytes) {
  if (size_bytes > SIZE_MAX - 64 || refused()) return NULL;
  size_t rounded = (size_bytes + 63) / 64 * 64;
  void *block = aligned_alloc(64, rounded ? rounded : 64);
  if (block == NULL) return NULL;
  memset(block, 0, rounded ? rounded : 64);
  count(1);
  return block;
}

void spw_release(void *block) {
  if (block == NULL) return;
  count(-1);
  free(block);
}
