#include "cache/prefix_index.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <utility>

namespace dalsegno {
namespace {

constexpr auto kWholeBlock = static_cast<std::size_t>(kBlockTokens);

std::span<const TokenId> next_block(std::span<const TokenId> tokens) {
  return tokens.first(std::min(tokens.size(), kWholeBlock));
}

// Two tokens at a time.
int shared_beginning(std::span<const TokenId> a, std::span<const TokenId> b) {
  const std::size_t most = std::min(a.size(), b.size());
  std::size_t at = 0;
  for (; at + 2 <= most; at += 2) {
    std::array<TokenId, 2> pairs[2];
    std::copy_n(&a[at], 2, pairs[0].begin());
    std::copy_n(&b[at], 2, pairs[1].begin());
    if (std::bit_cast<std::uint64_t>(pairs[0]) != std::bit_cast<std::uint64_t>(pairs[1])) break;
  }
  while (at < most && a[at] == b[at]) ++at;
  return static_cast<int>(at);
}

// In a large index every block of a path is a miss, and its address is known only when the one above has been read.
// Asking for a block 16 levels down hides most of that: 11.8 -> 7.3 us for 256 blocks among a million.
constexpr int kAhead = 16;

void prefetch(const IndexBlock* block) {
  constexpr std::size_t kLine = 64;
  static_assert(sizeof(IndexBlock) == 2 * kLine);
  __builtin_prefetch(block);
  __builtin_prefetch(reinterpret_cast<const std::byte*>(block) + kLine);
}

void note_ahead(IndexNode& node) {
  PrefixIndex::ancestor(node, std::max(0, node.depth - kAhead)).ahead = &node;
}

// Whether a comes before b, of which they share the first tokens.
bool is_before(std::span<const TokenId> a, std::span<const TokenId> b, int shared) {
  const auto at = static_cast<std::size_t>(shared);
  if (at == b.size()) return false;
  return at == a.size() || a[at] < b[at];
}

// Set aside for namespaces from the start, enough for about 60, since pages may take all else.
constexpr std::uint64_t kTreeAllowance = 32 << 10;

// The root of a namespace, its key and what std::map adds.
std::uint64_t tree_bytes(const Namespace& name_space) {
  return sizeof(PrefixTree) + sizeof(Namespace) + name_space.salt.size() + 4 * sizeof(void*);
}

}  // namespace

bool ByTokens::operator()(const IndexNode& a, const IndexNode& b) const {
  return is_before(a.block(), b.block(), shared_beginning(a.block(), b.block()));
}
bool ByUse::operator()(const IndexNode& a, const IndexNode& b) const {
  return a.last_use < b.last_use;
}
bool ByRank::operator()(const IndexNode& a, const IndexNode& b) const {
  if (a.priority != b.priority) return a.priority < b.priority;
  return a.rank != b.rank ? a.rank < b.rank : a.last_use < b.last_use;
}
bool ByExpiry::operator()(const IndexNode& a, const IndexNode& b) const {
  return a.expires != b.expires ? a.expires < b.expires : a.last_use < b.last_use;
}

std::uint64_t PrefixIndex::bytes_for(std::uint32_t max_pages, std::uint32_t max_ghosts) {
  const std::uint64_t nodes = std::uint64_t{max_pages} + max_ghosts + kChunk;
  return nodes * sizeof(IndexNode) + nodes / kChunk * sizeof(void*) + max_pages * sizeof(void*) + kTreeAllowance;
}

PrefixIndex::PrefixIndex(std::uint32_t max_pages, std::uint32_t max_ghosts, MemoryBudget& budget, Reservation reserved,
                         const EvictionPolicy& policy, PagesOf pages_of, PagesOf window_pages_of)
    : max_nodes_(std::uint64_t{max_pages} + max_ghosts),
      max_ghosts_(max_ghosts),
      budget_(budget),
      reserved_(std::move(reserved)),
      pages_of_(std::move(pages_of)),
      window_pages_of_(std::move(window_pages_of)),
      order_(policy) {
  node_of_page_.reserve(max_pages);
  chunks_.reserve(max_nodes_ / kChunk + 1);
}

PrefixIndex::~PrefixIndex() {
  order_.clear();
  ghosts_.clear();
  for (auto& [name_space, tree] : trees_) {
    tree.own.leaves.clear();
    empty_and_unlink(tree);
  }
  for (auto& [key, tree] : private_trees_) empty_and_unlink(*tree);
  for (auto& chunk : chunks_) {
    for (IndexNode& node : *chunk) empty_and_unlink(node);
  }
}

void PrefixIndex::empty_and_unlink(IndexNode& node) {
  node.children.clear();
  node.ghosts.clear();
}

PrefixTree* PrefixIndex::enter(const Namespace& name_space, std::uint64_t quota) {
  auto found = trees_.find(name_space);
  if (found == trees_.end()) {
    const std::uint64_t bytes = tree_bytes(name_space);
    Reservation reservation;
    if (tree_bytes_ + bytes > kTreeAllowance) {
      auto reserved = budget_.reserve(MemoryKind::index, bytes, "a namespace of the prefix index");
      if (!reserved.ok()) return nullptr;
      reservation = std::move(reserved).value();
    }
    found = trees_.try_emplace(name_space).first;
    PrefixTree& tree = found->second;
    tree.size = kBlockTokens;
    tree.jump = &tree;
    tree.name_space = &found->first;
    tree.own.quota = quota;
    if (quota > 0) tree.share = &tree.own;
    tree.allowance = reservation.bytes() == 0 ? bytes : 0;
    tree.reservation = std::move(reservation);
    tree_bytes_ += tree.allowance;
  }
  join(found->second);
  return &found->second;
}

PrefixTree& PrefixIndex::enter_private() {
  auto owned = std::make_unique<PrefixTree>();
  PrefixTree& tree = *owned;
  tree.size = kBlockTokens;
  tree.jump = &tree;
  private_trees_.emplace(&tree, std::move(owned));
  join(tree);
  return tree;
}

void PrefixIndex::leave(PrefixTree& tree) {
  assert(tree.tables > 0);
  --tree.tables;
  if (tree.name_space == nullptr) {
    if (tree.tables > 0) return;
    assert(tree.children.empty() && tree.ghosts.empty());
    private_trees_.erase(&tree);
    return;
  }
  drop_tree_if_unused(tree);
}

const PrefixTree* PrefixIndex::find(const Namespace& name_space) const {
  const auto found = trees_.find(name_space);
  return found == trees_.end() ? nullptr : &found->second;
}

void PrefixIndex::drop_tree_if_unused(IndexNode& node) {
  if (node.parent != nullptr) return;
  auto& tree = static_cast<PrefixTree&>(node);
  if (tree.name_space == nullptr || tree.tables > 0 || !tree.children.empty() || !tree.ghosts.empty()) return;
  tree_bytes_ -= tree.allowance;
  trees_.erase(trees_.find(*tree.name_space));
}

// The first sibling that is not before `tokens`; `best` is the one that shares most with them. In lexicographic order
// no sibling shares more than one of the two that the tokens fall between, and a search passes by both.
Siblings::const_iterator PrefixIndex::position(const Siblings& siblings, std::span<const TokenId> tokens,
                                               Nearest& best) const {
  struct Before {
    std::uint64_t& comparisons;
    Nearest& best;
    bool operator()(const IndexNode& node, std::span<const TokenId> key) const {
      ++comparisons;
      const int shared = shared_beginning(node.block(), key);
      if (shared > best.shared) best = {const_cast<IndexNode*>(&node), shared};
      return is_before(node.block(), key, shared);
    }
  };
  return siblings.lower_bound(tokens, Before{comparisons_, best});
}

Siblings::const_iterator PrefixIndex::position(const Siblings& siblings, std::span<const TokenId> tokens) const {
  Nearest best;
  return position(siblings, tokens, best);
}

PrefixIndex::Nearest PrefixIndex::nearest(const Siblings& siblings, std::span<const TokenId> tokens) const {
  Nearest best;
  if (!siblings.empty()) position(siblings, tokens, best);
  return best;
}

PrefixIndex::Match PrefixIndex::match(const PrefixTree& tree, std::span<const TokenId> tokens) const {
  Match match;
  match.blocks.reserve(tokens.size() / kWholeBlock);
  const IndexNode* at = &tree;
  while (!tokens.empty()) {
    prefetch(at->ahead);
    const Nearest next = nearest(at->children, next_block(tokens));
    if (next.shared < kBlockTokens) {
      match.partial = next.node;
      match.partial_tokens = next.shared;
      break;
    }
    match.blocks.push_back(next.node);
    at = next.node;
    tokens = tokens.subspan(kWholeBlock);
  }
  return match;
}

// Of those that go on after `beginning`, which are neighbours.
const IndexNode* PrefixIndex::latest(const Siblings& siblings, std::span<const TokenId> beginning) const {
  const IndexNode* latest = nullptr;
  const auto size = static_cast<int>(beginning.size());
  auto at = siblings.empty() ? siblings.end() : position(siblings, beginning);
  for (int looked = 0; at != siblings.end() && looked < kForks; ++at, ++looked) {
    if (shared_beginning(at->block(), beginning) < size) break;
    if (latest == nullptr || at->seen > latest->seen) latest = &*at;
  }
  return latest;
}

std::vector<TokenId> PrefixIndex::continuation(const IndexNode& from, std::span<const TokenId> beginning,
                                               int most) const {
  std::vector<TokenId> tokens;
  const IndexNode* at = &from;
  for (; beginning.size() >= kWholeBlock; beginning = beginning.subspan(kWholeBlock)) {
    at = latest(at->children, next_block(beginning));
    if (at == nullptr) return tokens;
  }
  while (std::cmp_less(tokens.size(), most)) {
    at = latest(at->children, beginning);
    if (at == nullptr) break;
    const auto more = at->block().subspan(beginning.size());
    const std::size_t count = std::min(more.size(), static_cast<std::size_t>(most) - tokens.size());
    tokens.insert(tokens.end(), more.begin(), more.begin() + static_cast<std::ptrdiff_t>(count));
    beginning = {};
  }
  return tokens;
}

Stopped PrefixIndex::why(const Namespace& name_space, const PrefixTree* tree, const Match& match,
                         std::span<const TokenId> tokens) const {
  const auto matched = static_cast<std::size_t>(match.tokens());
  if (matched == tokens.size()) return Stopped::end;
  if (tree != nullptr) {
    const IndexNode& last = match.blocks.empty() ? static_cast<const IndexNode&>(*tree) : *match.blocks.back();
    const auto rest = next_block(tokens.subspan(match.blocks.size() * kWholeBlock));
    if (nearest(last.ghosts, rest).shared > match.partial_tokens) return Stopped::evicted;
    const bool continues =
        match.partial != nullptr ? match.partial->size > match.partial_tokens : !last.children.empty();
    if (continues) return Stopped::diverged;
  }
  return held_elsewhere(name_space, tokens.first(matched + 1)) ? Stopped::name_space : Stopped::cold;
}

// Nobody learns what other tenants hold, so only the same salt counts.
bool PrefixIndex::held_elsewhere(const Namespace& name_space, std::span<const TokenId> tokens) const {
  return std::ranges::any_of(trees_, [&](const auto& other) {
    return other.first.salt == name_space.salt && other.first != name_space &&
           match(other.second, tokens).tokens() == static_cast<int>(tokens.size());
  });
}

IndexNode* PrefixIndex::continued_by(IndexNode& parent, std::span<const TokenId> tokens) const {
  const auto after = position(parent.children, tokens);
  const auto size = static_cast<int>(tokens.size());
  if (after != parent.children.end() && shared_beginning(after->block(), tokens) == size) return nullptr;
  if (after == parent.children.begin()) return nullptr;
  const IndexNode& before = *std::prev(after);
  return shared_beginning(before.block(), tokens) == before.size ? const_cast<IndexNode*>(&before) : nullptr;
}

IndexNode& PrefixIndex::ancestor(IndexNode& node, int depth) {
  IndexNode* at = &node;
  while (at->depth > depth) at = at->jump->depth >= depth ? at->jump : at->parent;
  return *at;
}

PrefixIndex::Inserted PrefixIndex::insert(IndexNode& parent, std::span<const TokenId> tokens, PageId page) {
  assert(!tokens.empty() && tokens.size() <= kWholeBlock && parent.size == kBlockTokens);
  const auto size = static_cast<int>(tokens.size());
  auto after = position(parent.children, tokens);
  if (after != parent.children.end() && shared_beginning(after->block(), tokens) == size) {
    auto& same = const_cast<IndexNode&>(*after);
    if (size == kBlockTokens) order_.hit(same);
    return {&same, false, kNoPage};
  }
  Inserted inserted;
  std::int8_t priority = kNoPriority;
  std::uint64_t expires = kUnsaid;
  // A beginning of these tokens stands just before them: a sibling between would begin with it too.
  if (after != parent.children.begin()) {
    const IndexNode& before = *std::prev(after);
    if (shared_beginning(before.block(), tokens) == before.size) {
      auto& continued = const_cast<IndexNode&>(before);
      priority = continued.priority;
      expires = continued.expires;
      inserted.dropped = remove_live(continued);
      free_node(continued);
      after = position(parent.children, tokens);
    }
  }
  IndexNode& node = take_node(parent, tokens);
  node.page = page;
  node.last_use = ++clock_;
  node.priority = priority;
  node.expires = expires;
  node.share = parent.share;
  if (node.share != nullptr) node.share->pages += full_pages(node);
  add(node, live_);
  order_.add(node);
  const auto at = static_cast<std::size_t>(page);
  node_of_page_.resize(std::max(node_of_page_.size(), at + 1));
  node_of_page_[at] = &node;
  parent.children.insert_before(after, node);
  note_ahead(node);
  set_held(node, true);
  update_evictable(parent);
  inserted.node = &node;
  inserted.added = true;
  return inserted;
}

// The ghost of these tokens, with the ghosts below it, or of their beginning, which is a partial block that goes on
// now; or a new node.
IndexNode& PrefixIndex::take_node(IndexNode& parent, std::span<const TokenId> tokens) {
  auto ghost = position(parent.ghosts, tokens);
  if (ghost == parent.ghosts.end() || !std::ranges::equal(ghost->block(), tokens)) {
    const bool continues =
        ghost != parent.ghosts.begin() && shared_beginning(std::prev(ghost)->block(), tokens) == std::prev(ghost)->size;
    ghost = continues ? std::prev(ghost) : parent.ghosts.end();
  }
  if (ghost != parent.ghosts.end()) {
    auto& node = const_cast<IndexNode&>(*ghost);
    parent.ghosts.erase(ghost);
    ghosts_.erase(ghosts_.iterator_to(node));
    std::ranges::copy(tokens, node.tokens.begin());
    node.size = static_cast<int>(tokens.size());
    order_.revive(node);
    return node;
  }
  if (free_nodes_ == nullptr) {
    assert(chunks_.size() * kChunk < max_nodes_);
    chunks_.push_back(std::make_unique<Chunk>());
    for (IndexNode& node : *chunks_.back()) node.parent = std::exchange(free_nodes_, &node);
  }
  IndexNode& node = *free_nodes_;
  free_nodes_ = std::exchange(node.parent, &parent);
  std::ranges::copy(tokens, node.tokens.begin());
  node.size = static_cast<int>(tokens.size());
  node.depth = parent.depth + 1;
  // Jumps as long as those of the parent and of where it jumps to are joined (a skew-binary list).
  const IndexNode& further = *parent.jump;
  node.jump = parent.depth - further.depth == further.depth - further.jump->depth ? further.jump : &parent;
  return node;
}

void PrefixIndex::free_node(IndexNode& node) {
  assert(node.children.empty() && node.ghosts.empty() && node.page == kNoPage);
  node.size = 0;
  node.hits = node.gap = node.spread = 0;
  node.priority = kNoPriority;
  node.expires = kUnsaid;
  node.jump = nullptr;
  node.parent = std::exchange(free_nodes_, &node);
}

// Takes a live leaf out of its parent's children; the caller decides what becomes of the node.
PageId PrefixIndex::remove_live(IndexNode& node) {
  assert(node.children.empty() && node.window == kNoPage && node.cover == 0 && !node.MarkHook::is_linked());
  assert(node.pins == 0);
  order_.remove(node);
  if (node.share != nullptr) node.share->pages -= full_pages(node);
  node.parent->children.erase(node.parent->children.iterator_to(node));
  node_of_page_[static_cast<std::size_t>(node.page)] = nullptr;
  subtract(node, live_);
  if (node.held) {
    held_[node.held_slot] = held_.back();
    held_[node.held_slot]->held_slot = node.held_slot;
    held_.pop_back();
    node.held = false;
    epoch_stale_ = true;
  }
  if (!epoch_stale_ && node.epoch == epoch_) subtract(node, protected_);
  node.epoch = 0;
  return std::exchange(node.page, kNoPage);
}

void PrefixIndex::set_window(IndexNode& node, PageId window) {
  if (node.window != kNoPage) {
    node_of_page_[static_cast<std::size_t>(node.window)] = nullptr;
    if (node.share != nullptr) node.share->pages -= window_pages(node);
  }
  node.window = window;
  if (window == kNoPage) return;
  if (node.share != nullptr) node.share->pages += window_pages(node);
  const auto at = static_cast<std::size_t>(window);
  node_of_page_.resize(std::max(node_of_page_.size(), at + 1));
  node_of_page_[at] = &node;
}

void PrefixIndex::set_held(IndexNode& node, bool held, bool child_held) {
  if (node.held == held) return;
  node.held = held;
  if (held) {
    node.held_slot = static_cast<std::uint32_t>(held_.size());
    held_.push_back(&node);
    if (!epoch_stale_) protect_path(node);
    update_evictable(node);
  } else {
    held_[node.held_slot] = held_.back();
    held_[node.held_slot]->held_slot = node.held_slot;
    held_.pop_back();
    if (!child_held) epoch_stale_ = true;
    touch(node);
  }
}

// Counts the node and those above it that this epoch has not counted yet.
void PrefixIndex::protect_path(IndexNode& node) const {
  for (IndexNode* at = &node; at->parent != nullptr && at->epoch != epoch_; at = at->parent) {
    at->epoch = epoch_;
    add(*at, protected_);
  }
}

void PrefixIndex::add(const IndexNode& node, Tally& tally) const {
  const std::uint64_t pages = full_pages(node);
  ++tally.blocks;
  tally.pages += pages;
  tally.empty += pages == 0 ? 1 : 0;
}

void PrefixIndex::subtract(const IndexNode& node, Tally& tally) const {
  const std::uint64_t pages = full_pages(node);
  --tally.blocks;
  tally.pages -= pages;
  tally.empty -= pages == 0 ? 1 : 0;
}

PrefixIndex::Tally PrefixIndex::count() const {
  if (epoch_stale_) {
    ++epoch_;
    protected_ = {};
    epoch_stale_ = false;
    for (IndexNode* node : held_) protect_path(*node);
  }
  return {live_.blocks - protected_.blocks, live_.pages - protected_.pages, live_.empty - protected_.empty};
}

void PrefixIndex::touch(IndexNode& node) {
  order_.take_out(node);
  node.last_use = ++clock_;
  order_.use(node);
  update_evictable(node);
}

void PrefixIndex::hit(const Match& match, int tokens) {
  const auto whole = static_cast<std::size_t>(tokens / kBlockTokens);
  for (std::size_t i = 0; i < whole; ++i) order_.hit(*match.blocks[i]);
  if (tokens % kBlockTokens > 0) order_.hit(whole < match.blocks.size() ? *match.blocks[whole] : *match.partial);
}

// A child is useless without its parent: a parent becomes evictable only after its children are gone.
void PrefixIndex::update_evictable(IndexNode& node) {
  const bool wanted = node.page != kNoPage && !node.held && node.children.empty();
  if (wanted == node.UseHook::is_linked()) return;
  if (wanted) {
    order_.put_in(node);
  } else {
    order_.take_out(node);
  }
}

PageId PrefixIndex::evict(Remember remember) {
  IndexNode* node = least();
  return node == nullptr ? kNoPage : remove(*node, remember);
}

std::uint64_t PrefixIndex::pin(IndexNode& node) {
  std::uint64_t first = 0;
  for (IndexNode* at = &node; at->parent != nullptr; at = at->parent) {
    if (at->pins++ > 0) continue;
    first += full_pages(*at);
    ++pinned_;
  }
  return first;
}

std::uint64_t PrefixIndex::unpin(IndexNode& node) {
  std::uint64_t last = 0;
  for (IndexNode* at = &node; at->parent != nullptr; at = at->parent) {
    assert(at->pins > 0);
    if (--at->pins > 0) continue;
    last += full_pages(*at);
    --pinned_;
  }
  return last;
}

PageId PrefixIndex::remove(IndexNode& node, Remember remember) {
  assert(!node.held);
  const bool seen_by_none = static_cast<const PrefixTree&>(ancestor(node, 0)).name_space == nullptr;
  IndexNode& parent = *node.parent;
  const PageId page = remove_live(node);
  // What led here was used when its end was.
  parent.last_use = std::max(parent.last_use, node.last_use);
  parent.seen = std::max(parent.seen, node.seen);
  order_.claim(parent, node.priority, node.expires);
  update_evictable(parent);
  if (remember == Remember::no || seen_by_none) {
    free_node(node);
    drop_tree_if_unused(parent);
    return page;
  }
  node.last_use = ++clock_;
  node.priority = kNoPriority;
  node.expires = kUnsaid;
  ghosts_.insert(ghosts_.end(), node);
  parent.ghosts.insert(node);
  if (ghosts_.size() > max_ghosts_) forget_oldest_ghost();
  return page;
}

// A ghost's children were evicted before it, so the oldest has none.
void PrefixIndex::forget_oldest_ghost() {
  IndexNode& node = *ghosts_.begin();
  IndexNode& parent = *node.parent;
  ghosts_.erase(ghosts_.begin());
  parent.ghosts.erase(parent.ghosts.iterator_to(node));
  free_node(node);
  drop_tree_if_unused(parent);
}

void PrefixIndex::forget_ghosts() {
  while (!ghosts_.empty()) forget_oldest_ghost();
}

std::uint64_t PrefixIndex::tables() const {
  std::uint64_t tables = 0;
  for (const auto& [name_space, tree] : trees_) tables += tree.tables;
  for (const auto& [key, tree] : private_trees_) tables += tree->tables;
  return tables;
}

std::uint64_t PrefixIndex::bytes() const {
  std::uint64_t bytes = tree_bytes_ + chunks_.size() * sizeof(Chunk) + node_of_page_.size() * sizeof(void*);
  for (const auto& [name_space, tree] : trees_) bytes += tree.reservation.bytes();
  return bytes;
}

}  // namespace dalsegno
