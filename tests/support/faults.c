/* Preloaded into a process: lets the Nth of some operations fail, once or from then on, as a full or broken disk would.

   Counted is, from fault_arm to fault_count, what concerns a file in the folder that FAULT_FOLDER names; of new
   descriptors, all. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { WRITES = 1, READS = 2, OPENS = 4, LOCKS = 8, DESCRIPTORS = 16 };

static atomic_int armed, count;
static int error, nth, forever, kinds;

/* error: an errno, or 0 to be killed instead; nth: 0 for none; kinds: those that are counted. */
void fault_arm(int error_, int nth_, int forever_, int kinds_) {
    error = error_, nth = nth_, forever = forever_, kinds = kinds_;
    count = 0;
    armed = 1;
}

int fault_count(void) {
    armed = 0;
    return count;
}

static int fails(int kind) {
    if (!armed || !(kinds & kind)) return 0;
    int now = ++count;
    if (!nth || (forever ? now < nth : now != nth)) return 0;
    if (!error) raise(SIGKILL);
    errno = error;
    return 1;
}

static int is_watched(const char *path) {
    const char *folder = getenv("FAULT_FOLDER");
    return folder && !strncmp(path, folder, strlen(folder));
}

static int is_watched_fd(int fd) {
    char link[64], path[4096];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = armed ? readlink(link, path, sizeof path - 1) : -1;
    errno = before;
    if (size < 0) return 0;
    path[size] = 0;
    return is_watched(path);
}

static int opening_fails(int folder, const char *path, int flags) {
    int kind = DESCRIPTORS;
    if (path[0] == '/' ? is_watched(path) : is_watched_fd(folder))
        kind |= OPENS | (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? WRITES : 0);
    return fails(kind);
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define MODE(last) \
    va_list rest; \
    va_start(rest, last); \
    int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0; \
    va_end(rest)

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        MODE(flags); \
        return opening_fails(AT_FDCWD, path, flags) ? -1 : real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        REAL(name); \
        MODE(flags); \
        return opening_fails(folder, path, flags) ? -1 : real(folder, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

#define ON_FILE(kind, result, name, parameters, arguments) \
    result name parameters { \
        REAL(name); \
        return is_watched_fd(fd) && fails(kind) ? -1 : real arguments; \
    }
ON_FILE(READS, ssize_t, read, (int fd, void *data, size_t size), (fd, data, size))
ON_FILE(READS, ssize_t, pread, (int fd, void *data, size_t size, off_t at), (fd, data, size, at))
ON_FILE(READS, ssize_t, pread64, (int fd, void *data, size_t size, off64_t at), (fd, data, size, at))
ON_FILE(WRITES, ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size))
ON_FILE(WRITES, ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
ON_FILE(WRITES, ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
ON_FILE(WRITES, int, fsync, (int fd), (fd))
ON_FILE(WRITES, int, fdatasync, (int fd), (fd))
ON_FILE(WRITES, int, ftruncate, (int fd, off_t size), (fd, size))
ON_FILE(WRITES, int, ftruncate64, (int fd, off64_t size), (fd, size))

int unlink(const char *path) {
    REAL(unlink);
    return is_watched(path) && fails(WRITES) ? -1 : real(path);
}

/* Locks can fail to be had; nobody is denied to give them back. */
#define FCNTL(name) \
    int name(int fd, int command, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, command); \
        void *argument = va_arg(rest, void *); \
        va_end(rest); \
        int is_lock = command == F_SETLK || command == F_OFD_SETLK; \
        if (is_lock && ((struct flock *)argument)->l_type != F_UNLCK && is_watched_fd(fd) && fails(LOCKS)) return -1; \
        int is_copy = command == F_DUPFD || command == F_DUPFD_CLOEXEC; \
        return is_copy && fails(DESCRIPTORS) ? -1 : real(fd, command, argument); \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

#define MAKES_DESCRIPTOR(name, parameters, arguments) \
    int name parameters { \
        REAL(name); \
        return fails(DESCRIPTORS) ? -1 : real arguments; \
    }
MAKES_DESCRIPTOR(socket, (int domain, int type, int protocol), (domain, type, protocol))
MAKES_DESCRIPTOR(pipe, (int fds[2]), (fds))
MAKES_DESCRIPTOR(pipe2, (int fds[2], int flags), (fds, flags))
MAKES_DESCRIPTOR(dup, (int fd), (fd))
MAKES_DESCRIPTOR(epoll_create1, (int flags), (flags))
MAKES_DESCRIPTOR(eventfd, (unsigned start, int flags), (start, flags))
