/* Opens a plan and checks its frame: header, sections, checksum, strings, buffers. A plan is hostile until
 * then: sizes are computed with overflow checks and nothing is followed before it is known to be inside. */
#include "plan.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "code.h"
#include "memory.h"
#include "status.h"

#define BAD(...) spw_fail(error, SPW_INVALID_PLAN, __VA_ARGS__)

size_t spw_buffer_tile_bytes(const spw_file_buffer *buffer) {
  return buffer->is_u8 ? (size_t)(buffer->channels + 3) / 4 * 64 : (size_t)buffer->channels * 64;
}

size_t spw_tile_stride(const spw_plan *plan) {
  return ((size_t)plan->header.arena_per_tile + 4095) / 4096 * 4096 + SPW_TILE_GAP;
}

/* The sum of all 64-bit words, each mixed with its place: any change of one word changes it. */
static uint64_t checksum(const uint8_t *bytes, size_t size) {
  uint64_t sum = 0;
  for (size_t i = 0; i < size / 8; i++) {
    uint64_t word;
    memcpy(&word, bytes + i * 8, 8);
    word += i * 0x9e3779b97f4a7c15u;
    word ^= word >> 32;
    word *= 0xd6e8feb86659fd93u;
    sum += word ^ (word >> 29);
  }
  return sum;
}

static bool section_fits(uint64_t offset, uint64_t count, uint64_t item, uint64_t next) {
  uint64_t bytes, end;
  return offset % 8 == 0 && !__builtin_mul_overflow(count, item, &bytes) &&
         !__builtin_add_overflow(offset, bytes, &end) && end <= next;
}

static spw_status check_header(const spw_plan *plan, spw_error *error) {
  const spw_file_header *h = &plan->header;
  if (memcmp(h->magic, SPW_MAGIC, 8) != 0) return BAD("not a plan: the file doesn't start with SPWPLAN");
  if (h->byte_order != SPW_BYTE_ORDER) return BAD("the plan was written for another byte order");
  if (h->version != SPW_FORMAT_VERSION)
    return BAD("plan format version %u, this library reads %d: compile the model again", h->version,
               SPW_FORMAT_VERSION);
  if (h->file_size != plan->size)
    return BAD("the plan says %llu bytes, the file has %zu: it is cut short or has grown",
               (unsigned long long)h->file_size, plan->size);
  if (plan->size % 64 != 0 || h->reserved != 0) return BAD("the header is damaged");
  if (h->checksum != checksum(plan->file + 16, plan->size - 16))
    return BAD("the checksum doesn't match: the plan is damaged, compile the model again");
  if (h->input_count > SPW_MAX_COUNT || h->buffer_count > SPW_MAX_COUNT || h->step_count > SPW_MAX_COUNT)
    return BAD("the header's counts are too large");
  bool fits = h->inputs >= sizeof *h &&
              section_fits(h->inputs, h->input_count, sizeof(spw_file_input), h->buffers) &&
              section_fits(h->buffers, h->buffer_count, sizeof(spw_file_buffer), h->steps) &&
              section_fits(h->steps, h->step_count, sizeof(spw_file_step), h->strings) &&
              section_fits(h->strings, h->strings_size, 1, h->constants) &&
              section_fits(h->constants, h->constants_size, 1, plan->size) && h->constants % 64 == 0;
  return fits ? SPW_OK : BAD("the header's sections overlap or lie outside the file");
}

static spw_status copy_records(spw_plan *plan, spw_error *error) {
  const spw_file_header *h = &plan->header;
  plan->records = spw_allocate(h->constants);
  if (plan->records == NULL) return spw_fail(error, SPW_OUT_OF_MEMORY, "no memory for the plan's records");
  memcpy(plan->records, plan->file, h->constants);
  plan->inputs = (const spw_file_input *)(plan->records + h->inputs);
  plan->buffers = (const spw_file_buffer *)(plan->records + h->buffers);
  plan->steps = (const spw_file_step *)(plan->records + h->steps);
  plan->strings = (const char *)(plan->records + h->strings);
  plan->constants = plan->file + h->constants;
  return SPW_OK;
}

static bool name_fits(const spw_plan *plan, uint32_t name) { return name < plan->header.strings_size; }

static spw_status check_names(const spw_plan *plan, spw_error *error) {
  const spw_file_header *h = &plan->header;
  if (h->strings_size == 0 || plan->strings[h->strings_size - 1] != 0)
    return BAD("the strings don't end in a zero byte");
  for (uint32_t i = 0; i < h->input_count; i++)
    if (!name_fits(plan, plan->inputs[i].name)) return BAD("input %u has no name", i);
  for (uint32_t i = 0; i < h->buffer_count; i++)
    if (!name_fits(plan, plan->buffers[i].name)) return BAD("buffer %u has no name", i);
  for (uint32_t i = 0; i < h->step_count; i++)
    if (!name_fits(plan, plan->steps[i].name)) return BAD("step %u has no name", i);
  return SPW_OK;
}

static spw_status check_buffers(const spw_plan *plan, spw_error *error) {
  uint64_t all = 0; /* no more than 2^14 buffers of 2^26 bytes */
  for (uint32_t i = 0; i < plan->header.buffer_count; i++) {
    const spw_file_buffer *b = &plan->buffers[i];
    uint64_t end;
    if (b->channels == 0 || b->channels > SPW_MAX_CHANNELS || b->is_u8 > 1 || b->per_batch > 1)
      return BAD("buffer %u: %u channels or its kind is invalid", i, b->channels);
    if (b->offset % 64 != 0 || __builtin_add_overflow(b->offset, spw_buffer_tile_bytes(b), &end) ||
        end > plan->header.arena_per_tile)
      return BAD("buffer %u lies outside the arena", i);
    all += spw_buffer_tile_bytes(b);
  }
  if (plan->header.arena_per_tile > all) return BAD("the arena is larger than all buffers together");
  return SPW_OK;
}

spw_status spw_plan_check(spw_plan *plan, spw_error *error) {
  if (plan->size < sizeof plan->header) return BAD("a plan of %zu bytes has no header", plan->size);
  memcpy(&plan->header, plan->file, sizeof plan->header);
  spw_status status = check_header(plan, error);
  if (status == SPW_OK) status = copy_records(plan, error);
  if (status == SPW_OK) status = check_names(plan, error);
  if (status == SPW_OK) status = check_buffers(plan, error);
  return status == SPW_OK ? spw_steps_check(plan, error) : status;
}

static spw_status finish(spw_plan *made, spw_plan **plan, spw_error *error) {
  spw_status status = spw_plan_check(made, error);
  if (status == SPW_OK && made->has_code) status = spw_code_enable(made, error);
  if (status == SPW_OK) {
    *plan = made;
  } else {
    spw_plan_free(made);
  }
  return status;
}

static spw_plan *new_plan(size_t size) {
  spw_plan *plan = spw_allocate(sizeof *plan);
  if (plan == NULL) return NULL;
  atomic_init(&plan->references, 1);
  plan->size = size;
  return plan;
}

spw_status spw_plan_from_memory(const void *bytes, size_t size, spw_plan **plan, spw_error *error) {
  if (bytes == NULL || plan == NULL) return spw_fail(error, SPW_INVALID_ARGUMENT, "bytes or plan is NULL");
  *plan = NULL;
  spw_plan *made = new_plan(size);
  uint8_t *copy = made ? spw_allocate(size) : NULL;
  if (copy == NULL) {
    spw_release(made);
    return spw_fail(error, SPW_OUT_OF_MEMORY, "no memory for a plan of %zu bytes", size);
  }
  memcpy(copy, bytes, size);
  made->file = copy;
  return finish(made, plan, error);
}

static spw_status map_file(int descriptor, const char *path, spw_plan **plan, spw_error *error) {
  struct stat about;
  if (fstat(descriptor, &about) != 0) return spw_fail(error, SPW_IO_ERROR, "%s: %s", path, strerror(errno));
  if (!S_ISREG(about.st_mode)) return spw_fail(error, SPW_IO_ERROR, "%s is no regular file", path);
  if (about.st_size == 0) return BAD("%s is empty", path);
  spw_plan *made = new_plan((size_t)about.st_size);
  if (made == NULL) return spw_fail(error, SPW_OUT_OF_MEMORY, "no memory for a plan");
  void *file = mmap(NULL, made->size, PROT_READ, MAP_SHARED, descriptor, 0);
  if (file == MAP_FAILED) {
    spw_release(made);
    return spw_fail(error, SPW_IO_ERROR, "%s can't be mapped: %s", path, strerror(errno));
  }
  madvise(file, made->size, MADV_HUGEPAGE); /* else a walk of page tables stops the weights' stream every 4 KiB */
  made->file = file;
  made->mapped = true;
  return finish(made, plan, error);
}

spw_status spw_plan_open(const char *path, spw_plan **plan, spw_error *error) {
  if (path == NULL || plan == NULL) return spw_fail(error, SPW_INVALID_ARGUMENT, "path or plan is NULL");
  *plan = NULL;
  int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return spw_fail(error, SPW_IO_ERROR, "%s: %s", path, strerror(errno));
  spw_status status = map_file(descriptor, path, plan, error);
  close(descriptor);
  return status;
}

spw_status spw_plan_open_descriptor(int descriptor, spw_plan **plan, spw_error *error) {
  if (plan == NULL) return spw_fail(error, SPW_INVALID_ARGUMENT, "plan is NULL");
  *plan = NULL;
  return map_file(descriptor, "the plan", plan, error);
}

void spw_plan_retain(spw_plan *plan) { atomic_fetch_add(&plan->references, 1); }

void spw_plan_release_file(spw_plan *plan) {
  void *file = (void *)(uintptr_t)plan->file;
  if (file != NULL && plan->mapped) {
    munmap(file, plan->size);
  } else {
    spw_release(file);
  }
  plan->file = NULL;
}

void spw_plan_free(spw_plan *plan) {
  if (plan == NULL || atomic_fetch_sub(&plan->references, 1) != 1) return;
  if (plan->code != NULL) munmap(plan->code, plan->header.constants_size);
  spw_plan_release_file(plan);
  spw_release(plan->records);
  spw_release(plan->outputs);
  spw_release(plan);
}

const uint8_t *spw_plan_source(const spw_plan *plan) { return plan ? plan->header.source : NULL; }

uint32_t spw_plan_input_count(const spw_plan *plan) { return plan ? plan->header.input_count : 0; }

const char *spw_plan_input_name(const spw_plan *plan, uint32_t index) {
  return index < spw_plan_input_count(plan) ? spw_string(plan, plan->inputs[index].name) : NULL;
}

uint32_t spw_plan_output_count(const spw_plan *plan) { return plan ? plan->output_count : 0; }

spw_status spw_plan_output(const spw_plan *plan, uint32_t index, spw_output_info *info) {
  if (info == NULL || index >= spw_plan_output_count(plan)) return SPW_INVALID_ARGUMENT;
  *info = plan->outputs[index].info;
  return SPW_OK;
}
