// A disk that fails, between a real program and the kernel: LD_PRELOAD this. DISK_CALL is fsync, write or rename,
// DISK_ERRNO the number, DISK_AFTER how many such calls on regular files succeed first; then one fails, or with
// DISK_STAYS every one. A failing write first writes half, as disks that fill up do.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static long seen;

static int fails(const char* call) {
  const char* wanted = getenv("DISK_CALL");
  if (wanted == NULL || strcmp(wanted, call) != 0) return 0;
  const long number = seen++, after = atol(getenv("DISK_AFTER"));
  return getenv("DISK_STAYS") != NULL ? number >= after : number == after;
}

static int refuse(void) {
  errno = atoi(getenv("DISK_ERRNO"));
  return -1;
}

static int regular(int fd) {
  struct stat what;
  return fstat(fd, &what) == 0 && (S_ISREG(what.st_mode) || S_ISDIR(what.st_mode));
}

int fsync(int fd) {
  if (regular(fd) && fails("fsync")) return refuse();
  return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}

ssize_t write(int fd, const void* data, size_t size) {
  ssize_t (*real)(int, const void*, size_t) = (ssize_t (*)(int, const void*, size_t))dlsym(RTLD_NEXT, "write");
  if (regular(fd) && fails("write")) {
    if (size > 1) real(fd, data, size / 2);
    return refuse();
  }
  return real(fd, data, size);
}

int rename(const char* from, const char* to) {
  if (fails("rename")) return refuse();
  return ((int (*)(const char*, const char*))dlsym(RTLD_NEXT, "rename"))(from, to);
}
