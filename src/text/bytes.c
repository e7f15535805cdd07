/* bytes.c - the growable byte run of bytes.h. Capacity doubles; one byte is kept for the NUL. */
#include "text/bytes.h"

#include <string.h>

#include "base/mem.h"

#define FIRST_CAPACITY 64

static bool reserve(lu_bytes *b, size_t extra)
{
    size_t need;
    if (b->failed || !lu_add_size(b->n, extra, &need) || !lu_add_size(need, 1, &need)) {
        b->failed = true;
        return false;
    }
    if (need <= b->capacity)
        return true;
    size_t capacity = b->capacity ? b->capacity : FIRST_CAPACITY;
    while (capacity < need)
        capacity = capacity > SIZE_MAX / 2 ? need : capacity * 2;
    char *data = lu_resize(b->data, capacity);
    if (!data) {
        b->failed = true;
        return false;
    }
    b->data = data;
    b->capacity = capacity;
    return true;
}

void lu_bytes_append(lu_bytes *b, const char *data, size_t n)
{
    if (!reserve(b, n))
        return;
    if (n)
        memcpy(b->data + b->n, data, n);
    b->n += n;
    b->data[b->n] = '\0';
}

void lu_bytes_put(lu_bytes *b, char c)
{
    if (b->n + 1 >= b->capacity && !reserve(b, 1))
        return;
    b->data[b->n++] = c;
    b->data[b->n] = '\0';
}

void lu_bytes_drop(lu_bytes *b, size_t n)
{
    if (b->failed || !n)
        return;
    memmove(b->data, b->data + n, b->n - n + 1);
    b->n -= n;
}

void lu_bytes_clear(lu_bytes *b)
{
    b->n = 0;
    if (b->data)
        b->data[0] = '\0';
}

void lu_bytes_free(lu_bytes *b)
{
    lu_free(b->data);
    *b = (lu_bytes){0};
}

lutra_status lu_bytes_check(const lu_bytes *b, lutra_err *err)
{
    return b->failed ? lu_fail_nomem(err, b->n) : LUTRA_OK;
}

lutra_status lu_bytes_take(lu_bytes *b, char **text, size_t *n, lutra_err *err)
{
    if (!b->data)
        lu_bytes_append(b, "", 0);
    LU_TRY(lu_bytes_check(b, err));
    *text = b->data;
    *n = b->n;
    *b = (lu_bytes){0};
    return LUTRA_OK;
}
