/* format_rules.h - lutra quantize: formats of single modules and candidates of mixed precision,
   from
   --format-for, --avg-bits and --candidate. */
#ifndef LUTRA_CLI_FORMAT_RULES_H
#define LUTRA_CLI_FORMAT_RULES_H

#include "cli.h"

typedef struct format_rules {
    lutra_format_rule *rules;
    int n_rules;
    lutra_format *candidates;
    int n_candidates;
    char **patterns; /* what the rules point to */
} format_rules;

/* texts: "PATTERN=SPEC" each. candidates: specs; where there are none and avg_bits > 0, lm2 lm3 lm4
   int5 int6 int8 with the group size and scale type of `general`. Free with format_rules_free, also
   after a failure. */
lutra_status format_rules_read(const cli_list *texts, const cli_list *candidates, double avg_bits,
                               const lutra_format *general, format_rules *out, lutra_err *err);
void format_rules_free(format_rules *r);

#endif
