#pragma once

#include <string>
#include <vector>

#include "cache/block_table.hpp"
#include "oracle/engines.hpp"

namespace dalsegno::oracle {

// What the engine's interface does not offer yet but its cache does: sequences that are forked, rewound and run with
// drafts of which some are rejected, several in a step, between the steps of ordinary requests and on the same cache.
class Branches {
 public:
  Branches(LocalEngine& engine, Random& random, Counts& counts) : engine_(engine), random_(random), counts_(counts) {}
  ~Branches() { drop_all(); }
  Branches(const Branches&) = delete;
  Branches& operator=(const Branches&) = delete;

  // One random operation, and the cache's invariants after it. Empty, or what went wrong.
  // prompt: of a sequence, should one be opened. seen: takes what a step showed.
  std::string act(const Tokens& prompt, std::vector<Seen>& seen);
  void drop_all();
  // Ends so many that a sequence of so many tokens has room: a request waits for memory that other engines hold, and
  // would wait for ever for what these do.
  void leave_room(int tokens);

 private:
  struct Branch {
    BlockTable table;
    Tokens tokens;  // those in the table
    Tokens next;    // to come
    int reused = 0;
  };
  struct Share {  // of a step
    std::size_t branch;
    Tokens tokens;
  };

  void open(KvCache& cache, const Tokens& prompt);
  void fork(KvCache& cache);
  void rewind(KvCache& cache);
  void end(KvCache& cache);
  void step(KvCache& cache, std::vector<Seen>& seen);
  std::vector<Share> gather(KvCache& cache);
  void accept(KvCache& cache, const Share& share);
  void drop(KvCache& cache, std::size_t at);
  std::size_t pick() { return static_cast<std::size_t>(random_.below(static_cast<int>(live_.size()))); }

  LocalEngine& engine_;
  Random& random_;
  Counts& counts_;
  std::vector<Branch> live_;
};

}  // namespace dalsegno::oracle
