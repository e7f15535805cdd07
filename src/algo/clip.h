/* clip.h - the search of clipped ranges for groups of weights, for the passes that end with it. */
#ifndef LU_ALGO_CLIP_H
#define LU_ALGO_CLIP_H

#include "algo/pass.h"

typedef struct lu_clip_settings {
    int64_t grid;      /* ranges p = 1, 1 - 1/grid, ... of the widest */
    double max_shrink; /* the last is 1 - max_shrink */
    bool scores;       /* also q and k, whose product is sensitive */
} lu_clip_settings;

/* Rows of a parameter table for a settings type with a member of type lu_clip_settings. */
#define LU_CLIP_PARAMS(type, member)                                                   \
    {"clip_grid",                                                                      \
     LUTRA_PARAM_INT,                                                                  \
     offsetof(type, member.grid),                                                      \
     40,                                                                               \
     1,                                                                                \
     1000,                                                                             \
     NULL,                                                                             \
     "ranges tried for a group: 1, 1 - 1/clip_grid, ... of the whole"},                \
        {"max_shrink",                                                                 \
         LUTRA_PARAM_REAL,                                                             \
         offsetof(type, member.max_shrink),                                            \
         0.5,                                                                          \
         0,                                                                            \
         0.99,                                                                         \
         NULL,                                                                         \
         "the narrowest range tried is 1 - max_shrink"},                               \
    {                                                                                  \
        "clip_scores", LUTRA_PARAM_BOOL, offsetof(type, member.scores), 0, 0, 1, NULL, \
            "clip queries and keys too"                                                \
    }

/* Sets lo and hi of every group of the site's wanted linears to the range that has the smallest
   output error of the group, mean over rows of (x_G . (w_G - rounded w_G))^2 = d H_G d^T with the
   group's square on the diagonal of the Hessian. Never worse than the whole range. The statistic
   HESSIAN is needed; sites that saw fewer than min_rows rows are left with a warning. */
lutra_status lu_clip_site(lu_block *b, lu_site *site, const lu_clip_settings *s, int64_t min_rows,
                          lutra_err *err);

#endif
