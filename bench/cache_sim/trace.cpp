#include "cache_sim/trace.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

namespace dalsegno::cache_sim {
namespace {

// The same numbers on every machine, which the standard's distributions do not promise.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t x = state_ += 0x9E3779B97F4A7C15ULL;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
    return x ^ (x >> 31);
  }
  // first <= result <= last
  std::size_t between(std::size_t first, std::size_t last) { return first + next() % (last - first + 1); }
  template <typename T>
  void shuffle(std::vector<T>& values) {
    for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[between(0, i - 1)]);
  }

 private:
  std::uint64_t state_;
};

class Writer {
 public:
  explicit Writer(std::uint64_t seed) : random(seed) {}
  Blocks text(std::size_t blocks) {
    Blocks text(blocks);
    for (std::uint32_t& block : text) block = next_++;
    return text;
  }
  Blocks text(std::size_t least, std::size_t most) { return text(random.between(least, most)); }
  Random random;

 private:
  std::uint32_t next_ = 1;
};

void append(Blocks& to, const Blocks& more) {
  to.insert(to.end(), more.begin(), more.end());
}

// One more turn: what was said so far is the beginning of the prompt.
struct Conversation {
  Blocks said;
  std::size_t turns_left = 0;

  Request turn(const Blocks& message, Blocks reply) {
    append(said, message);
    Request request{said, std::move(reply)};
    append(said, request.reply);
    --turns_left;
    return request;
  }
};

Trace within(std::string name, std::vector<Request> requests, std::uint32_t divisor) {
  Trace trace{std::move(name), std::move(requests), 0};
  trace.budget = unique_blocks(trace) / divisor;
  return trace;
}

constexpr std::size_t kSessions = 6;
constexpr std::size_t kTurns = 8;

Trace sessions(std::string name, const std::vector<std::size_t>& order, Writer& writer) {
  std::vector<Conversation> sessions(kSessions);
  for (Conversation& session : sessions) session.turns_left = kTurns;
  std::vector<Request> requests;
  requests.reserve(order.size());
  for (const std::size_t at : order) {
    requests.push_back(sessions[at].turn(writer.text(8, 24), writer.text(4, 12)));
  }
  return within(std::move(name), std::move(requests), 2);
}

std::vector<std::size_t> in_turns() {
  std::vector<std::size_t> order;
  for (std::size_t turn = 0; turn < kTurns; ++turn) {
    for (std::size_t session = 0; session < kSessions; ++session) order.push_back(session);
  }
  return order;
}

}  // namespace

std::uint32_t unique_blocks(const Trace& trace) {
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint32_t> known;  // (prefix, block) -> prefix
  for (const Request& request : trace.requests) {
    std::uint32_t at = 0;
    for (const Blocks* blocks : {&request.prompt, &request.reply}) {
      for (const std::uint32_t block : *blocks) {
        at = known.try_emplace({at, block}, static_cast<std::uint32_t>(known.size() + 1)).first->second;
      }
    }
  }
  return static_cast<std::uint32_t>(known.size());
}

Trace round_robin(std::uint64_t seed) {
  Writer writer(seed);
  return sessions("round robin", in_turns(), writer);
}

Trace random_order(std::uint64_t seed) {
  Writer writer(seed);
  std::vector<std::size_t> order = in_turns();
  writer.random.shuffle(order);
  return sessions(fmt::format("random order {}", seed), order, writer);
}

Trace agents(std::uint64_t seed) {
  Writer writer(seed);
  const Blocks system = writer.text(40);
  std::vector<Blocks> tools;
  for (int kind = 0; kind < 4; ++kind) tools.push_back(writer.text(60, 160));
  const auto hire = [&] {
    Conversation agent{system, writer.random.between(5, 20)};
    append(agent.said, tools[writer.random.between(0, tools.size() - 1)]);
    return agent;
  };
  std::vector<Conversation> working;
  for (int i = 0; i < 8; ++i) working.push_back(hire());
  std::vector<Request> requests;
  for (int step = 0; step < 1000; ++step) {
    Conversation& agent = working[writer.random.between(0, working.size() - 1)];
    requests.push_back(agent.turn(writer.text(2, 30), writer.text(1, 8)));
    if (agent.turns_left == 0) agent = hire();
  }
  return within("agents", std::move(requests), 10);
}

Trace chat(std::uint64_t seed) {
  Writer writer(seed);
  std::vector<Blocks> system;
  for (int i = 0; i < 3; ++i) system.push_back(writer.text(10, 60));
  const auto begin = [&] { return Conversation{system[writer.random.between(0, 2)], writer.random.between(1, 12)}; };
  std::vector<Conversation> open;
  for (int i = 0; i < 30; ++i) open.push_back(begin());
  std::vector<Request> requests;
  for (int turn = 0; turn < 1500; ++turn) {
    // Who said something lately is likelier to go on.
    const std::size_t at =
        std::min(writer.random.between(0, open.size() - 1), writer.random.between(0, open.size() - 1));
    Conversation talking = std::move(open[at]);
    open.erase(open.begin() + static_cast<std::ptrdiff_t>(at));
    requests.push_back(talking.turn(writer.text(1, 12), writer.text(2, 24)));
    open.insert(open.begin(), talking.turns_left == 0 ? begin() : std::move(talking));
  }
  return within("chat", std::move(requests), 20);
}

Trace few_shot(std::uint64_t seed) {
  Writer writer(seed);
  std::vector<Blocks> examples;
  for (int task = 0; task < 12; ++task) examples.push_back(writer.text(40, 100));
  std::vector<Request> requests;
  for (int batch = 0; batch < 60; ++batch) {
    const Blocks& shots = examples[writer.random.between(0, examples.size() - 1)];
    const std::size_t questions = writer.random.between(10, 40);
    for (std::size_t i = 0; i < questions; ++i) {
      Blocks prompt = shots;
      append(prompt, writer.text(2, 8));
      requests.push_back({std::move(prompt), writer.text(1, 2)});
    }
  }
  return within("few-shot", std::move(requests), 20);
}

Trace scan(std::uint64_t seed) {
  Writer writer(seed);
  std::vector<Blocks> hot;
  std::uint32_t hot_blocks = 0;
  for (int i = 0; i < 20; ++i) {
    hot.push_back(writer.text(20, 60));
    hot_blocks += static_cast<std::uint32_t>(hot.back().size());
  }
  std::vector<Request> requests;
  const auto visit_all = [&] {
    for (const Blocks& prompt : hot) requests.push_back({prompt, {}});
  };
  visit_all();
  visit_all();
  for (int i = 0; i < 10'000; ++i) requests.push_back({writer.text(4, 40), writer.text(1, 4)});
  visit_all();
  return {"scan", std::move(requests), 2 * hot_blocks};
}

std::vector<Trace> generated(std::uint64_t seed) {
  std::vector<Trace> traces{round_robin(seed)};
  for (std::uint64_t order = 1; order <= 5; ++order) traces.push_back(random_order(order));
  for (auto* make : {agents, chat, few_shot, scan}) traces.push_back(make(seed));
  return traces;
}

}  // namespace dalsegno::cache_sim
