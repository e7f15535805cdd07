/* safetensors.h - reading and writing safetensors files (the published format: u64 header length,
   JSON header, data). Readers map the file; nothing is read whole.

   A tensor's data may start at any byte: only well-behaved writers align it. Readers of a view
   must load elements with memcpy or as bytes, never through a typed pointer. */
#ifndef LU_IO_SAFETENSORS_H
#define LU_IO_SAFETENSORS_H

#include "base/status.h"
#include "lutra/tensor.h"

typedef struct lu_st_entry {
    const char *name;
    lutra_tensor view; /* data points into the map, also when it has 0 bytes */
} lu_st_entry;

typedef struct lu_st_file lu_st_file;

/* Maps and validates the whole header. E_IO, E_FORMAT naming the file and the fault;
   E_UNSUPPORTED naming the tensor for an unknown dtype or more than LUTRA_MAX_RANK dimensions. */
lutra_status lu_st_open(const char *path, lu_st_file **out, lutra_err *err);
void lu_st_close(lu_st_file *f);
const char *lu_st_path(const lu_st_file *f);
int64_t lu_st_count(const lu_st_file *f);
const lu_st_entry *lu_st_at(const lu_st_file *f, int64_t i); /* sorted by file offset */

/* NULL if absent. Bisects an index of names rather than hashing: no header can make it slow. */
const lu_st_entry *lu_st_find(const lu_st_file *f, const char *name);

/* Parses a header held in memory: the part a fuzzer drives. data/size: the whole file. The result
   borrows data, which must outlive it. `path` is only named in messages. */
lutra_status lu_st_parse(const char *path, const void *data, size_t size, lu_st_file **out,
                         lutra_err *err);

/* Layout of a file to be written: header bytes and each tensor's offset are known before any data.
   entries[i].view.data is ignored. Tensors are laid out in the given order. *header is allocated
   (lu_free) and is 8 + H bytes, H padded so that data starts 8-aligned; offsets[i] is absolute in
   the file; *file_size is the whole. metadata {"format":"pt"} is always written. E_ARG naming the
   tensor: name twice or not UTF-8, shape against bytes; E_LIMIT: header beyond 100 MB. */
lutra_status lu_st_layout(const lu_st_entry *entries, int64_t n, void **header,
                          size_t *header_bytes, uint64_t *offsets, uint64_t *file_size,
                          lutra_err *err);

#endif
