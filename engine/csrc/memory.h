/* The library's only allocator: 64-byte aligned blocks, which the test build can make fail. */
#ifndef SPW_MEMORY_H
#define SPW_MEMORY_H

#include <stddef.h>

void *spw_allocate(size_t size_bytes); /* NULL when there is none; zeroed */
void spw_release(void *block);

#endif
