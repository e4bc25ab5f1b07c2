#include "fusedlm/generator.h"

#include "bindings/engine.h"

namespace py = pybind11;

namespace fusedlm::bindings {
namespace {

using Allow = std::function<bool(std::span<const int32_t>, std::span<uint32_t>)>;

// A Python function that may be called and let go by a thread without Python.
Allow allow_of(const py::object& function) {
  if (function.is_none()) return {};
  const std::shared_ptr<py::object> held(new py::object(function), [](py::object* object) {
    const py::gil_scoped_acquire acquire;
    delete object;
  });
  return [held](std::span<const int32_t> tokens, std::span<uint32_t> allowed) {
    const py::gil_scoped_acquire acquire;
    const py::memoryview mask =
        py::memoryview::from_buffer(allowed.data(), {allowed.size()}, {sizeof(uint32_t)});
    const std::vector<int32_t> list(tokens.begin(), tokens.end());
    const bool some = (*held)(list, mask).cast<bool>();
    mask.attr("release")();  // its memory does not outlive the call
    return some;
  };
}

class SharedGenerator {
 public:
  SharedGenerator(std::shared_ptr<SharedEngine> engine, index_t most_running)
      : engine_(std::move(engine)),
        generator_(std::make_unique<Generator>(engine_->engine(), most_running)) {}
  // It closes its sequences, which others must not be using the engine for.
  ~SharedGenerator() {  // NOLINT(bugprone-exception-escape): a lock that fails may end the process
    engine_->call([&](Engine&) { generator_.reset(); });
  }
  SharedGenerator(const SharedGenerator&) = delete;
  SharedGenerator& operator=(const SharedGenerator&) = delete;

  template <class Fn>
  auto call(Fn&& fn) {
    return engine_->call([&](Engine&) { return fn(*generator_); });
  }

 private:
  std::shared_ptr<SharedEngine> engine_;
  std::unique_ptr<Generator> generator_;
};

py::object end_of(const Event& event) {
  constexpr const char* names[] = {"", "stop", "length", "cancelled"};
  if (event.end == Event::End::none) return py::none();
  return py::str(names[static_cast<int>(event.end)]);
}

py::dict dict_of(const GeneratorStats& stats) {
  py::dict d;
  d["waiting"] = stats.waiting;
  d["running"] = stats.running;
  d["prompt_tokens"] = stats.prompt_tokens;
  d["reused_tokens"] = stats.reused_tokens;
  d["new_tokens"] = stats.new_tokens;
  d["guessed_tokens"] = stats.guessed_tokens;
  d["accepted_tokens"] = stats.accepted_tokens;
  return d;
}

uint64_t submit(SharedGenerator& self, std::vector<int32_t> prompt, index_t max_new_tokens,
                double temperature, index_t top_k, double top_p, double min_p,
                double repetition_penalty, uint64_t seed, std::vector<int32_t> stop_ids,
                bool ignore_eos, index_t guess_tokens, const py::object& allow) {
  Request r;
  r.prompt = std::move(prompt);
  r.max_new_tokens = max_new_tokens;
  r.temperature = temperature;
  r.top_k = top_k;
  r.top_p = top_p;
  r.min_p = min_p;
  r.repetition_penalty = repetition_penalty;
  r.seed = seed;
  r.stop_ids = std::move(stop_ids);
  r.ignore_eos = ignore_eos;
  r.guess_tokens = guess_tokens;
  r.allow = allow_of(allow);
  return self.call([&](Generator& g) { return g.submit(std::move(r)); });
}

}  // namespace

static const Registration generator([](py::module_& m) {
  using Shared = SharedGenerator;
  py::class_<Event>(m, "Event")
      .def_readonly("request", &Event::request)
      .def_readonly("tokens", &Event::tokens)
      .def_readonly("log_probs", &Event::log_probs)
      .def_property_readonly("end", &end_of)
      .def("__repr__", [](const Event& self) {
        return py::str("Event(request={}, tokens={}, end={!r})")
            .format(self.request, self.tokens, end_of(self));
      });
  py::class_<Shared>(m, "Generator")
      .def(py::init<std::shared_ptr<SharedEngine>, index_t>(), py::arg("engine"),
           py::arg("most_running") = 16)
      .def("submit", &submit, py::arg("prompt"), py::kw_only(), py::arg("max_new_tokens") = 256,
           py::arg("temperature") = 1.0, py::arg("top_k") = 0, py::arg("top_p") = 1.0,
           py::arg("min_p") = 0.0, py::arg("repetition_penalty") = 1.0, py::arg("seed") = 0,
           py::arg("stop_ids") = std::vector<int32_t>{}, py::arg("ignore_eos") = false,
           py::arg("guess_tokens") = 0, py::arg("allow") = py::none())
      .def("cancel", [](Shared& self,
                        uint64_t request) { self.call([&](Generator& g) { g.cancel(request); }); })
      .def("step", [](Shared& self) { return self.call([](Generator& g) { return g.step(); }); })
      .def_property_readonly(
          "idle", [](Shared& self) { return self.call([](Generator& g) { return g.idle(); }); })
      .def_property_readonly("stats", [](Shared& self) {
        return dict_of(self.call([](Generator& g) { return g.stats(); }));
      });
});

}  // namespace fusedlm::bindings
