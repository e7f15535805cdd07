/* near.h - "did you mean": the known names nearest to an unknown word. */
#ifndef LU_BASE_NEAR_H
#define LU_BASE_NEAR_H

#include "base/status.h"

/* Name i of a list, for i = 0, 1, ... until NULL. */
typedef const char *(*lu_name_at)(const void *list, int i);

/* lu_name_at of a NULL-terminated array of strings. */
const char *lu_near_array(const void *list, int i);

/* Writes up to three names within a small edit distance of word, nearest first, as "a, b, c".
   Returns how many; buf is "" when none. Letter case does not count. */
int lu_near(const char *word, lu_name_at at, const void *list, char *buf, size_t size);

#endif
