// Mapped files: their bytes, whatever is done to have them in huge pages.

#include "engine/mapped_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "files.h"

namespace fusedlm::test {
namespace {

std::string content_of(size_t bytes) {
  std::string content(bytes, '\0');
  uint32_t state = 1;
  for (char& c : content) {
    state = state * 1664525 + 1013904223;
    c = static_cast<char>(state >> 24);
  }
  return content;
}

TEST(MappedFile, HasTheBytesOfSmallAndLargeFiles) {
  const Folder folder;
  // Large ones are looked at for their pages (huge_file_pages.h), with and without a rest behind the last.
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{4097}, size_t{16} << 20,
                             (size_t{16} << 20) + 1, (size_t{37} << 20) + 12345}) {
    const std::string content = content_of(bytes);
    const std::string path = folder.write("weights", content);
    const int file = ::open(path.c_str(), O_RDONLY);
    ASSERT_EQ(::fsync(file), 0);  // pages that are not written yet cannot be given back
    ::close(file);
    for (int i = 0; i < 2; ++i) EXPECT_TRUE(MappedFile::open(path)->text() == content) << bytes;
  }
}

TEST(MappedFile, StaysWholeWhileAnotherOpensTheFile) {
  const Folder folder;
  const std::string content = content_of(size_t{20} << 20);
  const std::string path = folder.write("weights", content);
  const auto first = MappedFile::open(path);
  EXPECT_TRUE(first->text() == content);
  const auto second = MappedFile::open(path);
  EXPECT_TRUE(first->text() == content);
  EXPECT_TRUE(second->text() == content);
}

}  // namespace
}  // namespace fusedlm::test
