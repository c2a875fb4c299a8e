// A disk that can be told to fail, and that forgets what was not synced: preloaded into the hub by `disk.rs`.
//
// Writes to `segno.db` and `segno.db-wal` go through to the real files, which is what the hub sees, like the page cache of a
// system. Beside that, the folder $SEGNO_DISK holds what a power cut would leave of both: a write gets there when the file is
// synced after it. A file `fail-sync-db`, `fail-sync-wal`, `fail-write-db` or `fail-write-wal` in the folder makes that call
// fail with EIO. While there is a file `stall-sync-wal` that sync does not end. A sync that fails forgets the writes before it, as Linux does: the next one does not bring them back.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { DB, WAL, KINDS };
static const char *const names[KINDS] = {"db", "wal"};
static const char *const ends[KINDS] = {"/segno.db", "/segno.db-wal"};

struct pending {
    struct pending *next;
    off_t at;
    size_t length;
    char bytes[];
};
static struct pending *first[KINDS], **last[KINDS];
static int kept[KINDS] = {-1, -1};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static int kind_of(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return -1;
    path[length] = 0;
    for (int kind = 0; kind < KINDS; kind++) {
        size_t end = strlen(ends[kind]);
        if ((size_t)length >= end && strcmp(path + length - end, ends[kind]) == 0) return kind;
    }
    return -1;
}

static int told_to(const char *fault, int kind) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s-%s", getenv("SEGNO_DISK"), fault, names[kind]);
    return access(path, F_OK) == 0;
}

static int kept_file(int kind) {
    if (kept[kind] < 0) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s%s", getenv("SEGNO_DISK"), ends[kind]);
        kept[kind] = open(path, O_RDWR | O_CREAT, 0600);
        if (kept[kind] < 0) abort();
    }
    return kept[kind];
}

static ssize_t write_at(const char *call, int fd, const void *bytes, size_t length, off_t at) {
    ssize_t (*write_through)(int, const void *, size_t, off_t) = real(call);
    int kind = kind_of(fd);
    if (kind < 0) return write_through(fd, bytes, length, at);
    pthread_mutex_lock(&lock);
    ssize_t written = -1;
    if (told_to("fail-write", kind)) {
        errno = EIO;
    } else if ((written = write_through(fd, bytes, length, at)) > 0) {
        struct pending *write = malloc(sizeof *write + written);
        *write = (struct pending){NULL, at, written};
        memcpy(write->bytes, bytes, written);
        if (!first[kind]) last[kind] = &first[kind];
        *last[kind] = write;
        last[kind] = &write->next;
    }
    pthread_mutex_unlock(&lock);
    return written;
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) {
    return write_at("pwrite", fd, bytes, length, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t at) {
    return write_at("pwrite64", fd, bytes, length, at);
}

static int sync_file(const char *call, int fd) {
    int (*sync_through)(int) = real(call);
    int kind = kind_of(fd);
    if (kind < 0) return sync_through(fd);
    while (told_to("stall-sync", kind)) usleep(10 * 1000);
    pthread_mutex_lock(&lock);
    int fails = told_to("fail-sync", kind);
    ssize_t (*keep)(int, const void *, size_t, off_t) = real("pwrite64");
    while (first[kind]) {
        struct pending *write = first[kind];
        first[kind] = write->next;
        if (!fails && keep(kept_file(kind), write->bytes, write->length, write->at) < 0) abort();
        free(write);
    }
    pthread_mutex_unlock(&lock);
    if (fails) errno = EIO;
    return fails ? -1 : 0;
}

int fsync(int fd) { return sync_file("fsync", fd); }

int fdatasync(int fd) { return sync_file("fdatasync", fd); }

static int truncate_file(const char *call, int fd, off_t length) {
    int (*truncate_through)(int, off_t) = real(call);
    int kind = kind_of(fd);
    if (kind >= 0) {
        pthread_mutex_lock(&lock);
        if (truncate_through(kept_file(kind), length) < 0) abort();
        pthread_mutex_unlock(&lock);
    }
    return truncate_through(fd, length);
}

int ftruncate(int fd, off_t length) { return truncate_file("ftruncate", fd, length); }

int ftruncate64(int fd, off_t length) { return truncate_file("ftruncate64", fd, length); }
