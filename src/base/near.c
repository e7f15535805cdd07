/* near.c - nearest names by edit distance (insert, delete, replace, swap of neighbours; each costs
   one). A name is near when at most a third of the word's letters, and at least one edit, separate
   them, or when one begins with the other. Words are short: the quadratic table is on the stack. */
#include "base/near.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define MAX_WORD 63
#define MAX_NEAR 3

const char *lu_near_array(const void *list, int i) { return ((const char *const *)list)[i]; }

static bool same(char a, char b) { return tolower((unsigned char)a) == tolower((unsigned char)b); }

static int min_int(int a, int b) { return a < b ? a : b; }

static int distance(const char *a, const char *b)
{
    const int n = (int)strlen(a), m = (int)strlen(b);
    int d[MAX_WORD + 1][MAX_WORD + 1];
    if (n > MAX_WORD || m > MAX_WORD)
        return MAX_WORD;
    for (int i = 0; i <= n; i++)
        d[i][0] = i;
    for (int j = 0; j <= m; j++)
        d[0][j] = j;
    for (int i = 1; i <= n; i++)
        for (int j = 1; j <= m; j++) {
            int best = d[i - 1][j - 1] + !same(a[i - 1], b[j - 1]);
            best = min_int(best, min_int(d[i - 1][j], d[i][j - 1]) + 1);
            if (i > 1 && j > 1 && same(a[i - 1], b[j - 2]) && same(a[i - 2], b[j - 1]))
                best = min_int(best, d[i - 2][j - 2] + 1);
            d[i][j] = best;
        }
    return d[n][m];
}

static bool is_prefix(const char *a, const char *b)
{
    size_t i = 0;
    while (a[i] && same(a[i], b[i]))
        i++;
    return i >= 2 && !a[i];
}

int lu_near(const char *word, lu_name_at at, const void *list, char *buf, size_t size)
{
    const int third = (int)(strlen(word) / 3), limit = third > 1 ? third : 1;
    const char *best[MAX_NEAR];
    int cost[MAX_NEAR], n = 0;
    const char *name;
    for (int i = 0; (name = at(list, i)); i++) {
        int d = distance(word, name);
        if (d > limit && (is_prefix(word, name) || is_prefix(name, word)))
            d = limit;
        if (d > limit)
            continue;
        int j = n < MAX_NEAR ? n++ : MAX_NEAR;
        for (; j > 0 && cost[j - 1] > d; j--)
            if (j < MAX_NEAR) {
                best[j] = best[j - 1];
                cost[j] = cost[j - 1];
            }
        if (j < MAX_NEAR) {
            best[j] = name;
            cost[j] = d;
        }
    }
    size_t used = 0;
    if (size > 0)
        buf[0] = '\0';
    for (int i = 0; i < n && used < size; i++) {
        const int w = snprintf(buf + used, size - used, "%s%s", i ? ", " : "", best[i]);
        used += w > 0 ? (size_t)w : 0;
    }
    return n;
}
