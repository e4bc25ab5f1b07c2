// What a newer glibc's headers make of a call, and an older glibc has in another form.
#include <sys/stat.h>

namespace {
#if defined(__x86_64__)
constexpr int kLayout = 1;  // of struct stat
#else
constexpr int kLayout = 0;
#endif
}  // namespace

#define HIDDEN __attribute__((visibility("hidden")))

// NOLINTBEGIN(bugprone-reserved-identifier): these names are glibc's.
extern "C" {
int __fxstat(int layout, int file, struct stat* result);
int __lxstat(int layout, const char* path, struct stat* result);
int __xstat(int layout, const char* path, struct stat* result);

// Functions of the library itself since 2.33. On these machines stat64 is the same.
HIDDEN int fstat(int file, struct stat* result) { return __fxstat(kLayout, file, result); }
HIDDEN int lstat(const char* path, struct stat* result) { return __lxstat(kLayout, path, result); }
HIDDEN int stat(const char* path, struct stat* result) { return __xstat(kLayout, path, result); }
HIDDEN int fstat64(int file, struct stat64* result) {
  return __fxstat(kLayout, file, reinterpret_cast<struct stat*>(result));
}

// Since 2.32 C++'s library counts without atomics while this is true. It never is here.
HIDDEN char __libc_single_threaded = 0;
}
// NOLINTEND(bugprone-reserved-identifier)
