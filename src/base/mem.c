/* mem.c - hooked allocation, see mem.h. The hooks and the fault counter are the library's only
   process-wide state. */
#include "base/mem.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ALIGNMENT 64
#define HUGE_PAGE ((size_t)2 << 20)

static void *(*hook_alloc)(size_t) = malloc;
static void *(*hook_resize)(void *, size_t) = realloc;
static void (*hook_free)(void *) = free;

static atomic_llong alloc_count;
static atomic_llong fail_at; /* 0 = never */
static atomic_bool fail_all;

void lutra_set_allocator(void *(*alloc)(size_t), void *(*resize)(void *, size_t), void (*release)(void *))
{
    hook_alloc = alloc;
    hook_resize = resize;
    hook_free = release;
}

void lu_mem_fail_at(int64_t n, bool all)
{
    atomic_store(&alloc_count, 0);
    atomic_store(&fail_all, all);
    atomic_store(&fail_at, n);
}

int64_t lu_mem_count(void) { return atomic_load(&alloc_count); }

static bool must_fail(void)
{
    const long long n = atomic_fetch_add_explicit(&alloc_count, 1, memory_order_relaxed) + 1;
    const long long at = atomic_load_explicit(&fail_at, memory_order_relaxed);
    return at && (n == at || (n > at && atomic_load(&fail_all)));
}

void *lu_alloc(size_t bytes) { return must_fail() ? NULL : hook_alloc(bytes ? bytes : 1); }

void *lu_array(size_t count, size_t size)
{
    size_t bytes;
    return lu_mul_size(count, size, &bytes) ? lu_alloc(bytes) : NULL;
}

void *lu_calloc(size_t count, size_t size)
{
    void *p = lu_array(count, size);
    if (p)
        memset(p, 0, count * size);
    return p;
}

void *lu_resize(void *p, size_t bytes) { return must_fail() ? NULL : hook_resize(p, bytes ? bytes : 1); }

void lu_free(void *p)
{
    if (p)
        hook_free(p);
}

void lutra_free(void *p) { lu_free(p); }

char *lu_strndup(const char *s, size_t n)
{
    char *copy = lu_alloc(n + 1);
    if (copy) {
        memcpy(copy, s, n);
        copy[n] = '\0';
    }
    return copy;
}

char *lu_strdup(const char *s) { return lu_strndup(s, strlen(s)); }

/* The block's start is kept in the pointer-sized slot just below the aligned address. Large blocks
   are aligned to huge pages and ask for them: reading packed weights from front to back is a tenth
   to a fifth faster so. */
void *lu_alloc_aligned(size_t bytes)
{
    size_t total;
    const size_t alignment = bytes >= HUGE_PAGE ? HUGE_PAGE : ALIGNMENT;
    if (!lu_add_size(bytes, alignment + sizeof(void *), &total))
        return NULL;
    char *raw = lu_alloc(total);
    if (!raw)
        return NULL;
    const uintptr_t first = (uintptr_t)raw + sizeof(void *);
    char *p = raw + sizeof(void *) + (alignment - first % alignment) % alignment;
#ifdef MADV_HUGEPAGE
    if (bytes >= HUGE_PAGE) /* a wish: whole pages only, so that none holds memory we do not use */
        madvise(p, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
#endif
    memcpy(p - sizeof(void *), &raw, sizeof raw);
    return p;
}

void lu_free_aligned(void *p)
{
    if (!p)
        return;
    void *raw;
    memcpy(&raw, (char *)p - sizeof(void *), sizeof raw);
    lu_free(raw);
}

bool lu_mul_size(size_t a, size_t b, size_t *out)
{
    if (b && a > SIZE_MAX / b)
        return false;
    *out = a * b;
    return true;
}

bool lu_add_size(size_t a, size_t b, size_t *out)
{
    if (a > SIZE_MAX - b)
        return false;
    *out = a + b;
    return true;
}
