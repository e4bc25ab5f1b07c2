#pragma once
// The command line of the examples: `--name value` pairs between positional arguments, and how errors end.

#include <charconv>
#include <cstdio>
#include <exception>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

struct UsageError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

class Arguments {
 public:
  /// Throws UsageError for an option that is not among `known`, or has no value.
  Arguments(int argc, char** argv, const std::vector<std::string>& known) {
    for (int i = 1; i < argc; ++i) {
      const std::string_view argument = argv[i];
      if (!argument.starts_with("--")) {
        positional_.emplace_back(argument);
        continue;
      }
      const std::string name(argument.substr(2));
      bool found = false;
      for (const std::string& option : known) found = found || option == name;
      if (!found) throw UsageError("unknown option --" + name);
      if (++i == argc) throw UsageError("--" + name + " needs a value");
      options_[name] = argv[i];
    }
  }

  const std::vector<std::string>& positional() const { return positional_; }
  bool has(const std::string& name) const { return options_.contains(name); }

  /// The value of an option as a number of the type of `otherwise`, which it is where it is not given.
  template <class Number>
  Number get(const std::string& name, Number otherwise) const {
    const auto option = options_.find(name);
    if (option == options_.end()) return otherwise;
    const std::string& text = option->second;
    Number value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) {
      throw UsageError("--" + name + " is '" + text + "', expected a number");
    }
    return value;
  }

 private:
  std::vector<std::string> positional_;
  std::map<std::string, std::string> options_;
};

/// What main() returns: run(arguments) with errors on stderr, behind them `usage` where they are the user's.
template <class Run>
int run_main(int argc, char** argv, const std::vector<std::string>& options, const char* usage,
             Run&& run) {
  try {
    run(Arguments(argc, argv, options));
    return 0;
  } catch (const UsageError& error) {
    std::fprintf(stderr, "error: %s\n\n%s", error.what(), usage);
    return 2;
  } catch (const std::exception& error) {  // all of fusedlm's own derive from it
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
