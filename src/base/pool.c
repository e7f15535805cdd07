/* pool.c - fork-join loop over pthreads, see pool.h.
   One loop at a time: the caller publishes it by raising `ticket`; each worker takes chunks from
   the shared counter `next` until it passes n, then lowers `running`. A worker spins SPINS rounds
   for the next ticket before it sleeps on the condition variable, since decoding a token starts
   some hundred short loops. */
#define _GNU_SOURCE
#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

#include "base/mem.h"

#define SPINS 4000

typedef struct {
    lu_pool *pool;
    int index;
    pthread_t thread;
} worker;

struct lu_pool {
    int size; /* workers + the caller */
    worker *workers;
    int n_started;
    lu_task task;
    void *arg;
    int64_t n, grain;
    _Atomic int64_t next;
    atomic_int running;
    atomic_uint ticket;
    atomic_bool stop;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
};

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void take_chunks(lu_pool *p, int index)
{
    for (;;) {
        const int64_t begin = atomic_fetch_add(&p->next, p->grain);
        if (begin >= p->n)
            return;
        const int64_t end = p->n - begin < p->grain ? p->n : begin + p->grain;
        p->task(p->arg, begin, end, index);
    }
}

static void wait_for_ticket(lu_pool *p, unsigned seen)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&p->ticket, memory_order_acquire) != seen)
            return;
        relax();
    }
    pthread_mutex_lock(&p->mutex);
    while (atomic_load(&p->ticket) == seen)
        pthread_cond_wait(&p->wake, &p->mutex);
    pthread_mutex_unlock(&p->mutex);
}

static void *work(void *arg)
{
    worker *w = arg;
    lu_pool *p = w->pool;
    unsigned seen = 0;
    for (;;) {
        wait_for_ticket(p, seen);
        seen++;
        if (atomic_load(&p->stop))
            return NULL;
        take_chunks(p, w->index);
        atomic_fetch_sub_explicit(&p->running, 1, memory_order_release);
    }
}

static void publish(lu_pool *p)
{
    pthread_mutex_lock(&p->mutex);
    atomic_fetch_add(&p->ticket, 1);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->mutex);
}

lutra_status lu_pool_open(int n_threads, lu_pool **out, lutra_err *err)
{
    lu_pool *p = lu_calloc(1, sizeof *p);
    worker *workers = lu_calloc((size_t)n_threads, sizeof *workers);
    if (!p || !workers) {
        lu_free(p);
        lu_free(workers);
        return lu_fail_nomem(err, sizeof *p + (size_t)n_threads * sizeof *workers);
    }
    p->size = n_threads;
    p->workers = workers;
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->wake, NULL);
    for (int i = 1; i < n_threads; i++) {
        workers[i] = (worker){.pool = p, .index = i};
        const int error = pthread_create(&workers[i].thread, NULL, work, &workers[i]);
        if (error) {
            lu_pool_close(p);
            return lu_fail_errno(err, error, "thread pool", "start a thread");
        }
        p->n_started++;
    }
    *out = p;
    return LUTRA_OK;
}

void lu_pool_close(lu_pool *p)
{
    if (!p)
        return;
    atomic_store(&p->stop, true);
    publish(p);
    for (int i = 1; i <= p->n_started; i++)
        pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->mutex);
    lu_free(p->workers);
    lu_free(p);
}

int lu_pool_size(const lu_pool *p) { return p->size; }

void lu_pool_for(lu_pool *p, int64_t n, int64_t grain, lu_task task, void *arg)
{
    if (n <= 0)
        return;
    if (p->size == 1 || n <= grain) {
        task(arg, 0, n, 0);
        return;
    }
    p->task = task;
    p->arg = arg;
    p->n = n;
    p->grain = grain;
    atomic_store(&p->next, 0);
    atomic_store(&p->running, p->size - 1);
    publish(p);
    take_chunks(p, 0);
    for (int i = 0; atomic_load_explicit(&p->running, memory_order_acquire) > 0; i++) {
        if (i < SPINS)
            relax();
        else
            sched_yield(); /* more threads than CPUs: let them run */
    }
}

int lu_cpu_count(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
        return CPU_COUNT(&set);
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}
