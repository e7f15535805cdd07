/* version.c - what this library is and how it was built, one item a line. Which CPU levels and
   GPUs a machine has is known where kernels are chosen, not here. */
#include "lutra/base.h"

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

#if defined(__clang__)
#define COMPILER \
    "clang " TEXT(__clang_major__) "." TEXT(__clang_minor__) "." TEXT(__clang_patchlevel__)
#elif defined(__GNUC__)
#define COMPILER "gcc " TEXT(__GNUC__) "." TEXT(__GNUC_MINOR__) "." TEXT(__GNUC_PATCHLEVEL__)
#else
#define COMPILER "unknown"
#endif

#if defined(__x86_64__)
#define MACHINE "x86-64"
#elif defined(__aarch64__)
#define MACHINE "aarch64"
#else
#define MACHINE "generic"
#endif

const char *lutra_version(void)
{
    return "lutra " LUTRA_VERSION "\ncompiler: " COMPILER "\nmachine: " MACHINE;
}
