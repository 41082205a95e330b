#include "cache/checkpoints.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <iterator>
#include <vector>

namespace dalsegno {
namespace {

// A sequence that was `d` tokens longer than where another leaves it is resumed at most max(kNear, d) tokens before
// that place: what is prefilled twice is never more than a chunk or two, or what was there beyond. So the distance
// of checkpoints may double as they get older, and n tokens need about log2(n / kNear) of them beside the last.
constexpr int kNear = 1024;

bool parts(const IndexNode& node) {
  return node.is_fork || (!node.children.empty() && std::next(node.children.begin()) != node.children.end());
}

int end_of(const IndexNode& node) {
  return (node.depth - 1) * kBlockTokens + node.size;
}

}  // namespace

int Checkpoints::resumable(const PrefixIndex::Match& match) const {
  if (!needed()) return match.tokens();
  const int blocks = static_cast<int>(match.blocks.size());
  int run = 0;  // the first of the blocks up to this one that have window pages without a gap
  int best = 0;
  for (int block = 0; block < blocks; ++block) {
    if (lacks(*match.blocks[static_cast<std::size_t>(block)])) {
      run = block + 1;
    } else if (const int end = (block + 1) * kBlockTokens; first_block(end) >= run) {
      best = end;
    }
  }
  if (match.partial_tokens > 0 && !lacks(*match.partial) && first_block(match.tokens()) >= run) {
    best = match.tokens();
  }
  return best;
}

int Checkpoints::resumable(const IndexNode& node, int tokens) const {
  if (!needed()) return tokens;
  const IndexNode* at = &node;
  while (at->depth > (tokens + kBlockTokens - 1) / kBlockTokens) at = at->parent;
  for (int end = tokens; end > 0; at = at->parent) {
    if (at->depth <= first_block(end)) return end;
    if (lacks(*at)) end = (at->depth - 1) * kBlockTokens;
  }
  return 0;
}

void Checkpoints::give(IndexNode& node, PageId page) {
  assert(node.window == kNoPage);
  if (page == kNoPage) return;
  pool_.retain(page);
  index_.set_window(node, page);
  ++windows_;
}

void Checkpoints::drop_window(IndexNode& node) {
  const PageId page = node.window;
  index_.set_window(node, kNoPage);
  pool_.release(page);
  --windows_;
}

void Checkpoints::retain(PageId page) {
  if (page == kNoPage) return;
  const IndexNode* node = index_.node_of(page);
  if (pool_.references(page) == 1 && node != nullptr) evictable_ -= static_cast<std::uint64_t>(pages_of(*node));
  pool_.retain(page);
}

void Checkpoints::release(PageId page) {
  if (page == kNoPage) return;
  IndexNode* node = index_.node_of(page);
  if (pool_.release(page) != 1 || node == nullptr) return;
  if (node->cover > 0) {
    evictable_ += static_cast<std::uint64_t>(pages_of(*node));
  } else {
    drop_window(*node);
  }
}

void Checkpoints::mark(IndexNode& node, bool is_end) {
  if (!needed()) return;
  if (node.MarkHook::is_linked()) {
    node.is_end |= is_end;
    return touch(node);
  }
  const int first = first_covered(node);
  for (const IndexNode* at = &node; at->depth > first; at = at->parent) {
    if (lacks(*at)) return;
  }
  for (IndexNode* at = &node; at->depth > first; at = at->parent) ++at->cover;
  node.is_end = is_end;
  node.is_fork = false;
  node.mark_use = index_.tick();
  marks_.insert(marks_.end(), node);
}

void Checkpoints::mark_fork(IndexNode& node) {
  mark(node, true);
  node.is_fork = node.MarkHook::is_linked();
}

void Checkpoints::uncover(IndexNode& node) {
  assert(node.cover > 0);
  if (--node.cover > 0 || node.window == kNoPage || pool_.references(node.window) > 1) return;
  evictable_ -= static_cast<std::uint64_t>(pages_of(node));
  drop_window(node);
}

void Checkpoints::unmark(IndexNode& node) {
  if (!node.MarkHook::is_linked()) return;
  marks_.erase(marks_.iterator_to(node));
  const int first = first_covered(node);
  for (IndexNode* at = &node; at->depth > first; at = at->parent) uncover(*at);
}

void Checkpoints::touch(IndexNode& node) {
  if (!node.MarkHook::is_linked()) return;
  marks_.erase(marks_.iterator_to(node));
  node.mark_use = index_.tick();
  marks_.insert(marks_.end(), node);
}

void Checkpoints::thin(IndexNode& node) {
  if (!needed()) return;
  std::vector<IndexNode*> marked;
  for (IndexNode* at = node.parent; at->parent != nullptr; at = at->parent) {
    if (at->MarkHook::is_linked()) marked.push_back(at);
  }
  const int end = end_of(node);
  int below = end;
  for (std::size_t i = 0; i < marked.size(); ++i) {
    const int here = end_of(*marked[i]);
    const int above = i + 1 < marked.size() ? end_of(*marked[i + 1]) : 0;
    const bool wanted = marked[i]->is_end && (end - here <= kNear || parts(*marked[i]));
    if (!wanted && below - above <= std::max(kNear, end - below)) {
      unmark(*marked[i]);
    } else {
      below = here;
    }
  }
}

bool Checkpoints::hand_over(IndexNode& node) {
  const bool marked = node.MarkHook::is_linked();
  assert(node.cover == (marked ? 1U : 0U));
  if (marked) marks_.erase(marks_.iterator_to(node));
  node.cover = 0;
  if (node.window != kNoPage) {
    if (pool_.references(node.window) == 1) evictable_ -= static_cast<std::uint64_t>(pages_of(node));
    drop_window(node);
  }
  return marked;
}

void Checkpoints::take_over(IndexNode& node) {
  assert(!lacks(node) && !node.MarkHook::is_linked());
  ++node.cover;
  node.is_end = true;
  node.is_fork = false;
  node.mark_use = index_.tick();
  marks_.insert(marks_.end(), node);
}

IndexNode* Checkpoints::oldest() {
  return marks_.empty() ? nullptr : &*marks_.begin();
}

std::string Checkpoints::check_invariants() const {
  std::vector<std::uint32_t> cover(pool_.ids_end());
  for (const IndexNode& node : marks_) {
    const int first = first_covered(node);
    for (const IndexNode* at = &node; at->depth > first; at = at->parent) {
      if (lacks(*at)) return "a checkpoint lacks a window page";
      if (at->window != kNoPage) ++cover[static_cast<std::size_t>(at->window)];
    }
  }
  std::uint64_t windows = 0;
  std::uint64_t evictable = 0;
  for (std::uint32_t page = 0; page < pool_.ids_end(); ++page) {
    const IndexNode* node = index_.node_of(PageId{page});
    if (node == nullptr || node->window != PageId{page}) continue;
    ++windows;
    if (node->cover != cover[page])
      return fmt::format("{} checkpoints cover a block, not {}", cover[page], node->cover);
    if (pool_.references(PageId{page}) > 1) continue;
    if (node->cover == 0) return "a window page is kept that no checkpoint covers";
    if (pages_of(*node) == 0) return "a block of the sink has a window page";
    evictable += static_cast<std::uint64_t>(pages_of(*node));
  }
  if (windows != windows_ || evictable != evictable_) {
    return fmt::format("{} window pages, {} of them evictable, not {} and {}", windows, evictable, windows_,
                       evictable_);
  }
  return {};
}

}  // namespace dalsegno
