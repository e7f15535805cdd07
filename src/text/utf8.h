/* utf8.h - UTF-8 in and out, and the character classes that tokenizer files speak of. */
#ifndef LU_TEXT_UTF8_H
#define LU_TEXT_UTF8_H

#include "text/bytes.h"

#define LU_REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */

/* Length of the character at p (1..4), or 0 if the bytes there are not one. *bad is then the length
   of the maximal part that cannot be continued (1..3), as Unicode and Python count it; *cut says
   that the part reaches the end of the input, so more bytes could have completed it. */
int lu_utf8_step(const char *p, size_t n, int *bad, bool *cut);

bool lu_utf8_valid(const char *p, size_t n);

/* Appends p with every maximal invalid part replaced by U+FFFD. With `more` an incomplete character
   at the end is left alone. Returns the bytes used: n, or less with `more`. */
size_t lu_utf8_append_lossy(lu_bytes *out, const char *p, size_t n, bool more);

/* For valid UTF-8 only: the character at p and its length. */
int32_t lu_utf8_decode(const char *p, int *length);
void lu_utf8_append(lu_bytes *out, int32_t code);

bool lu_char_is_space(int32_t c);       /* White_Space */
bool lu_char_is_numeric(int32_t c);     /* Nd, Nl, No */
bool lu_char_is_punctuation(int32_t c); /* P*, and all of ASCII's signs */
bool lu_char_is_word(int32_t c);        /* letters, marks, digits, connectors: regex \w */

#endif
