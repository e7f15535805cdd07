/* pool.h - worker threads that share a loop. The caller takes part; workers spin briefly between
   loops, then sleep. Results must not depend on how the loop is cut: a task writes only what its
   indices own. */
#ifndef LU_BASE_POOL_H
#define LU_BASE_POOL_H

#include "base/status.h"

typedef struct lu_pool lu_pool;

/* Handles indices [begin, end). worker: 0 .. lu_pool_size-1, distinct among concurrent calls. */
typedef void (*lu_task)(void *arg, int64_t begin, int64_t end, int worker);

lutra_status lu_pool_open(int n_threads, lu_pool **out, lutra_err *err); /* n_threads >= 1 */
void lu_pool_close(lu_pool *p);
int lu_pool_size(const lu_pool *p);

/* Runs task over [0, n) in chunks of `grain` indices (>= 1), returns when all are done. Not
   reentrant: a task must not call lu_pool_for on the same pool. */
void lu_pool_for(lu_pool *p, int64_t n, int64_t grain, lu_task task, void *arg);

int lu_cpu_count(void); /* CPUs this process may use, >= 1 */

#endif
