/* journal.h - which tensors of an interrupted run are finished. A text file in the work folder:

     lutra journal 2
     request 0123456789abcdef   everything that decides the output: files, format, range rule,
                                ignored modules
     done 17 4028000000000000 3f80000000000000 7ff8000000000000

   tensor 17 of the plan is on disk; its signal and noise energies and its relative output error, as
   the bits of doubles, so that no locale changes what is read back. A line counts only when complete (the process may die while
   it writes). Lines are written after the data they speak of was synced. The caller holds the lock
   of the work folder. */
#ifndef LU_CALIB_JOURNAL_H
#define LU_CALIB_JOURNAL_H

#include "base/status.h"

#define LU_JOURNAL_NAME "journal"

typedef struct lu_journal_entry {
    bool done;
    double signal, noise;
    double error; /* |x (w - decoded)^T| / |x w^T| on calibration rows; NaN where unknown */
} lu_journal_entry;

typedef struct lu_journal {
    int fd; /* -1 when closed */
    char *path;
    uint64_t size; /* where the next line goes */
} lu_journal;

/* Opens or creates the journal in the folder; entries[0..n) say what is done. A journal of another
   request is refused with E_EXISTS. */
lutra_status lu_journal_open(const char *folder, uint64_t request, lu_journal_entry *entries,
                             int64_t n, lu_journal *out, lutra_err *err);

/* Appends "done" lines for tensors [begin, end) that are marked done, and syncs. */
lutra_status lu_journal_add(lu_journal *j, const lu_journal_entry *entries, int64_t begin,
                            int64_t end, lutra_err *err);

/* The same for the n tensors listed. */
lutra_status lu_journal_add_list(lu_journal *j, const lu_journal_entry *entries,
                                 const int64_t *list, int64_t n, lutra_err *err);

/* Closes it, and with remove deletes the file first. */
void lu_journal_close(lu_journal *j, bool remove);

#endif
