/* utf8.h - UTF-8 in and out, and the character classes that tokenizer files speak of. */
#ifndef LU_TEXT_UTF8_H
#define LU_TEXT_UTF8_H

#include "text/bytes.h"

#define LU_REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */

bool lu_utf8_valid(const char *p, size_t n);

/* Appends p with every maximal invalid part replaced by U+FFFD. With `more` an incomplete character
   at the end is left alone. Returns the bytes used: n, or less with `more`. */
size_t lu_utf8_append_lossy(lu_bytes *out, const char *p, size_t n, bool more);

/* For valid UTF-8 only: the character at p and its length. */
int32_t lu_utf8_decode(const char *p, int *length);
size_t lu_utf8_before(const char *text, size_t end); /* start of the character ending at end > 0 */
void lu_utf8_append(lu_bytes *out, int32_t code);

bool lu_char_is_space(int32_t c);       /* White_Space */
bool lu_char_is_numeric(int32_t c);     /* Nd, Nl, No */
bool lu_char_is_punctuation(int32_t c); /* P*, and all of ASCII's signs */
bool lu_char_is_word(int32_t c);        /* letters, marks, digits, connectors: regex \w */

#endif
