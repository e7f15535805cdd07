/* interrupt.h - Ctrl-C and SIGTERM as a flag that long operations poll. */
#ifndef LUTRA_CLI_INTERRUPT_H
#define LUTRA_CLI_INTERRUPT_H

#include <stdbool.h>

/* once = true: a second signal ends the program at once (the default action is restored). */
void interrupt_install(bool once);
bool interrupt_asked(void);
bool interrupt_terminated(void); /* by SIGTERM: nobody waits for an answer */
void interrupt_clear(void);

/* Ends the process by the signal that was caught, as a shell expects of a program that was
   interrupted; returns if none was. Call when all is cleaned up. */
void interrupt_die(void);

/* Keeps worker threads from taking the signals: wrap the code that starts them. */
void interrupt_block(void);
void interrupt_unblock(void);

/* Waits until fd can be read. false: a signal came first (even if it came just before the call). */
bool interrupt_wait_readable(int fd);

#endif
