#pragma once
// What is learned, as bytes: a file, or a text of our own.

#include <cstdint>
#include <fstream>
#include <iterator>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "tensor.h"

inline constexpr const char* kBuiltInText =
    R"(The lighthouse keeper counted the waves. When the seventh wave was higher than the sixth, she
lit the lamp; when it was lower, she put the kettle on. In forty years the sea had never once
asked her why. The gulls asked every day. The gulls wanted bread, and she told them that bread
came with the boat, and that the boat came with the tide, and that the tide came with the moon,
and that the moon kept its own hours. So the gulls learned to watch the moon.

One winter the boat was late. The keeper counted the waves, and the seventh was higher than the
sixth, and she lit the lamp, and no boat came. She counted again. The gulls sat on the rail in a
row, with their backs to the wind and their eyes on the place where the moon would rise. When it
rose it was thin and white, like the rim of a cup. Then the boat came with the tide, and the tide
came with the moon, and the bread came with the boat, and the keeper put the kettle on.
)";

/// Throws std::runtime_error for a file that cannot be read or is shorter than `least` bytes.
inline std::string read_text(const std::string& path, size_t least) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + " cannot be opened");
  std::string text((std::istreambuf_iterator<char>(file)), {});
  if (text.size() < least) {
    throw std::runtime_error(path + " has " + std::to_string(text.size()) +
                             " bytes, expected at least " + std::to_string(least));
  }
  return text;
}

/// B pieces of T bytes from random places; the target of a byte is the next one.
struct Batch {
  Batch(index_t B, index_t T) : B(B), T(T), tokens(B * T), targets(B * T) {}

  void draw(const std::string& text, std::mt19937_64& random) {
    std::uniform_int_distribution<size_t> places(0, text.size() - T - 1);
    for (index_t b = 0; b < B; ++b) {
      const size_t place = places(random);
      for (index_t t = 0; t < T; ++t) {
        tokens[b * T + t] = static_cast<unsigned char>(text[place + t]);
        targets[b * T + t] = static_cast<unsigned char>(text[place + t + 1]);
      }
    }
  }

  index_t B, T;
  std::vector<int64_t> tokens, targets;
};
