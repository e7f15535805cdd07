/* utf8.c - UTF-8 decoding by the table of well-formed sequences (Unicode 15, table 3-7).
   Invalid input is replaced part by part: a part is the longest start of a character that the
   following byte does not continue, so "\xE2\x82" + "A" is one U+FFFD and then "A". */
#include "text/utf8.h"

#include <utf8proc.h>

/* Bounds of the second byte depend on the first: they keep out overlong forms, surrogates and
   values above U+10FFFF. */
static int sequence_length(uint8_t lead, uint8_t *low, uint8_t *high)
{
    *low = 0x80;
    *high = 0xBF;
    if (lead < 0x80)
        return 1;
    if (lead < 0xC2)
        return 0;
    if (lead < 0xE0)
        return 2;
    if (lead < 0xF0) {
        *low = lead == 0xE0 ? 0xA0 : 0x80;
        *high = lead == 0xED ? 0x9F : 0xBF;
        return 3;
    }
    *low = lead == 0xF0 ? 0x90 : 0x80;
    *high = lead == 0xF4 ? 0x8F : 0xBF;
    return lead < 0xF5 ? 4 : 0;
}

/* Length of the character at text (1..4), or 0 if the bytes there are not one. *bad is then the
   length of the maximal part that cannot be continued (1..3), as Unicode and Python count it; *cut
   says that the part reaches the end of the input, so more bytes could have completed it. */
static int step(const char *text, size_t n, int *bad, bool *cut)
{
    const uint8_t *p = (const uint8_t *)text;
    uint8_t low, high;
    const int length = sequence_length(p[0], &low, &high);
    *cut = false;
    *bad = 1;
    if (length == 0)
        return 0;
    for (int i = 1; i < length; i++) {
        *bad = i;
        if ((size_t)i == n) {
            *cut = true;
            return 0;
        }
        if (p[i] < low || p[i] > high)
            return 0;
        low = 0x80;
        high = 0xBF;
    }
    return length;
}

bool lu_utf8_valid(const char *p, size_t n)
{
    int bad;
    bool cut;
    for (size_t i = 0; i < n;) {
        const int length = (uint8_t)p[i] < 0x80 ? 1 : step(p + i, n - i, &bad, &cut);
        if (!length)
            return false;
        i += (size_t)length;
    }
    return true;
}

size_t lu_utf8_append_lossy(lu_bytes *out, const char *p, size_t n, bool more)
{
    size_t i = 0, good = 0; /* [good, i) is valid and not yet written */
    if (!n)
        return 0; /* p may be NULL, and NULL + 0 is undefined */
    while (i < n) {
        int bad;
        bool cut;
        const int length = step(p + i, n - i, &bad, &cut);
        if (length) {
            i += (size_t)length;
            continue;
        }
        lu_bytes_append(out, p + good, i - good);
        good = i;
        if (cut && more)
            return i;
        lu_bytes_append(out, LU_REPLACEMENT, sizeof LU_REPLACEMENT - 1);
        i += (size_t)bad;
        good = i;
    }
    lu_bytes_append(out, p + good, i - good);
    return n;
}

int32_t lu_utf8_decode(const char *text, int *length)
{
    const uint8_t *p = (const uint8_t *)text;
    if (p[0] < 0x80) {
        *length = 1;
        return p[0];
    }
    if (p[0] < 0xE0) {
        *length = 2;
        return (p[0] & 0x1F) << 6 | (p[1] & 0x3F);
    }
    if (p[0] < 0xF0) {
        *length = 3;
        return (p[0] & 0x0F) << 12 | (p[1] & 0x3F) << 6 | (p[2] & 0x3F);
    }
    *length = 4;
    return (p[0] & 0x07) << 18 | (p[1] & 0x3F) << 12 | (p[2] & 0x3F) << 6 | (p[3] & 0x3F);
}

size_t lu_utf8_before(const char *text, size_t end)
{
    size_t at = end - 1;
    while (at > 0 && ((uint8_t)text[at] & 0xC0) == 0x80)
        at--;
    return at;
}

void lu_utf8_append(lu_bytes *out, int32_t code)
{
    utf8proc_uint8_t utf8[4];
    const utf8proc_ssize_t n = utf8proc_encode_char(code, utf8);
    lu_bytes_append(out, (const char *)utf8, (size_t)n);
}

bool lu_char_is_space(int32_t c)
{
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

bool lu_char_is_numeric(int32_t c)
{
    const utf8proc_category_t k = utf8proc_category(c);
    return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}

bool lu_char_is_punctuation(int32_t c)
{
    if (c < 0x80)
        return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
               (c >= '{' && c <= '~');
    const utf8proc_category_t k = utf8proc_category(c);
    return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

bool lu_char_is_word(int32_t c)
{
    if (c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9)) /* joiners; circled letters */
        return true;
    const utf8proc_category_t k = utf8proc_category(c);
    return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_ND) || k == UTF8PROC_CATEGORY_NL ||
           k == UTF8PROC_CATEGORY_PC;
}
