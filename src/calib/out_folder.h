/* out_folder.h - the output folder of a run: built as NAME.partial under a lock, then renamed. */
#ifndef LU_CALIB_OUT_FOLDER_H
#define LU_CALIB_OUT_FOLDER_H

#include "base/status.h"

typedef struct lu_out_folder {
    char *path;    /* without trailing slashes */
    char *partial; /* path + ".partial" */
    bool overwrite; /* an existing output may be replaced */
    int lock;       /* the locked work folder, or -1 */
} lu_out_folder;

/* Checks that `path` may be written: it is not the folder `in`, and it does not exist, or with
   overwrite is a folder of plain files. Touches nothing. Close also after a failure. */
lutra_status lu_out_check(const char *in, const char *path, bool overwrite, lu_out_folder *out,
                          lutra_err *err);

/* Creates and locks the work folder; with restart, empties it. E_EXISTS if another run has it. */
lutra_status lu_out_begin(lu_out_folder *o, bool restart, lutra_err *err);

/* E_NOSPACE with both figures unless `bytes` more fit on the file system of the folder. */
lutra_status lu_out_need(const lu_out_folder *o, uint64_t bytes, lutra_err *err);

/* Puts the work folder in the place of the output, durably. What may be replaced is checked again:
   without overwrite an output that has appeared since is E_EXISTS, with it a folder of plain files
   is deleted. */
lutra_status lu_out_finish(lu_out_folder *o, lutra_err *err);

void lu_out_close(lu_out_folder *o);

/* Calls visit for each entry of a folder, sorted by name, but "." and "..". Stops at a failure. */
typedef lutra_status (*lu_visit)(void *arg, const char *folder, const char *name, lutra_err *err);
lutra_status lu_folder_list(const char *folder, lu_visit visit, void *arg, lutra_err *err);

#endif
