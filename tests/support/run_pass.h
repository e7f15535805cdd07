/* run_pass.h - runs a pass over a block by its name, with settings as a recipe writes them. */
#ifndef LU_TESTS_RUN_PASS_H
#define LU_TESTS_RUN_PASS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "algo/pass.h"

/* settings: "alpha=0.5 search=1", numbers only. On failure prints the message and gives the status.
 */
static inline lutra_status run_pass(lu_block *b, const char *name, const char *settings)
{
    char values[256] = {0}, text[256];
    const lu_pass *p = lu_pass_find(name);
    lutra_err err = {.msg = ""};
    if (!p || p->settings_size > sizeof values || strlen(settings) >= sizeof text)
        abort();
    lu_pass_defaults(p, values);
    strcpy(text, settings);
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " ")) {
        char *value = strchr(word, '=');
        const lutra_param *q = p->method.params;
        *value++ = '\0';
        while (q->name && strcmp(q->name, word) != 0)
            q++;
        if (!q->name)
            abort();
        lu_param_set(q, values, strtod(value, NULL));
    }
    lutra_status status = p->block ? p->block(b, values, &err) : LUTRA_OK;
    for (int i = 0; status == LUTRA_OK && p->seam && i < b->n_seams; i++)
        status = p->seam(b, &b->seams[i], values, &err);
    for (int i = 0; status == LUTRA_OK && p->site && i < b->n_sites; i++)
        status = p->site(b, &b->sites[i], values, &err);
    if (status != LUTRA_OK)
        fprintf(stderr, "%s: %s\n", name, err.msg);
    return status;
}

#endif
