/* mem.h - the only allocator of the library: hooked by lutra_set_allocator, with a fault counter
   for tests and overflow-checked array sizes. No other file calls malloc. */
#ifndef LU_BASE_MEM_H
#define LU_BASE_MEM_H

#include "base/status.h"

void *lu_alloc(size_t bytes);               /* uninitialised; NULL on failure; 0 bytes gives 1 */
void *lu_calloc(size_t count, size_t size); /* zeroed, overflow-checked */
void *lu_array(size_t count, size_t size);  /* uninitialised, overflow-checked */
void *lu_resize(void *p, size_t bytes);
void lu_free(void *p);
char *lu_strdup(const char *s);
char *lu_strndup(const char *s, size_t n); /* copies n bytes and appends a NUL */

/* 64-byte aligned block for kernel data; freed with lu_free_aligned. */
void *lu_alloc_aligned(size_t bytes);
void lu_free_aligned(void *p);

/* Checked size arithmetic: false on overflow, *out then unchanged. */
bool lu_mul_size(size_t a, size_t b, size_t *out);
bool lu_add_size(size_t a, size_t b, size_t *out);

/* Tests: the n-th allocation from now fails (1 = the next), and all after it when `all`. 0 = off. */
void lu_mem_fail_at(int64_t n, bool all);
int64_t lu_mem_count(void); /* allocations since lu_mem_fail_at was last called */

#endif
