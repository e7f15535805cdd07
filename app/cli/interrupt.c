/* interrupt.c - signals. The handler only stores the signal's number. SIGPIPE is ignored: a closed
   pipe shows up as a failed write, which output.c handles. */
#include "interrupt.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/select.h>
#include <unistd.h>

static volatile sig_atomic_t caught;

static void remember(int signal_number) { caught = signal_number; }

void interrupt_install(bool once)
{
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = remember;
    a.sa_flags = once ? (int)SA_RESETHAND : 0;
    sigemptyset(&a.sa_mask);
    sigaction(SIGINT, &a, NULL);
    a.sa_flags = (int)SA_RESETHAND;
    sigaction(SIGTERM, &a, NULL);
    signal(SIGPIPE, SIG_IGN);
}

bool interrupt_asked(void) { return caught != 0; }
bool interrupt_terminated(void) { return caught == SIGTERM; }
void interrupt_clear(void) { caught = 0; }

void interrupt_die(void)
{
    if (!caught)
        return;
    signal(caught, SIG_DFL);
    kill(getpid(), caught);
}

static void stop_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
}

void interrupt_block(void)
{
    sigset_t set;
    stop_signals(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

void interrupt_unblock(void)
{
    sigset_t set;
    stop_signals(&set);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

bool interrupt_wait_readable(int fd)
{
    fd_set wanted;
    sigset_t set, before;
    FD_ZERO(&wanted);
    FD_SET(fd, &wanted);
    stop_signals(&set);
    pthread_sigmask(SIG_BLOCK, &set, &before);
    bool ready = !caught;
    if (ready) {
        const int n = pselect(fd + 1, &wanted, NULL, NULL, NULL, &before);
        ready = n >= 0 || errno != EINTR;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return ready && !caught;
}
