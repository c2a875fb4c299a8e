// A clock that can be set: preloaded into the hub by `clock.rs`.
//
// The clock of the machine, moved by the seconds that the file $SEGNO_CLOCK says. The monotonic clock is as it is.

#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (syscall(SYS_clock_gettime, clock, now) < 0) return -1;
    if (clock == CLOCK_REALTIME) {
        FILE *file = fopen(getenv("SEGNO_CLOCK"), "r");
        long seconds = 0;
        if (!file || fscanf(file, "%ld", &seconds) != 1) abort();
        fclose(file);
        now->tv_sec += seconds;
    }
    return 0;
}
