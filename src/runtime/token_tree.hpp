#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "dalsegno/types.hpp"

namespace dalsegno {

// A radix tree over token ids: what is kept by sequences that begin alike keeps their common tokens once. A sequence
// that goes on from another one costs a node and the tokens it has more.
// Invariant: a node without a value has two children at least, the root aside. A node with a value stays where it is.
// Threads: one at a time.
template <class Value>
class TokenTree {
 public:
  struct Node {
    std::unique_ptr<Value> value;

    // The tree's own.
    std::vector<TokenId> tokens;  // from the parent to here; empty for the root alone
    Node* parent = nullptr;
    std::map<TokenId, std::unique_ptr<Node>> children;  // by the first of their tokens
  };

  TokenTree() = default;
  TokenTree(const TokenTree&) = delete;
  TokenTree& operator=(const TokenTree&) = delete;
  ~TokenTree() {  // a leaf at a time: a sequence kept token by token is as deep as it is long
    for (Node* at = &root_; at != &root_ || !at->children.empty();) {
      if (!at->children.empty()) {
        at = at->children.begin()->second.get();
      } else {
        at = cut(*at);
      }
    }
  }

  // The node of these tokens, made if need be. Whoever makes it gives it a value, or erases it.
  Node& put(std::span<const TokenId> tokens) {
    Node* at = &root_;
    while (!tokens.empty()) {
      const auto child = at->children.find(tokens.front());
      if (child == at->children.end()) return add(*at, tokens);
      const std::vector<TokenId>& edge = child->second->tokens;
      const auto common = std::ranges::mismatch(edge, tokens).in1 - edge.begin();
      at = common == std::ssize(edge) ? child->second.get() : &split(child->second, common);
      tokens = tokens.subspan(static_cast<std::size_t>(common));
    }
    return *at;
  }

  // Forgets its value, and the nodes that nothing needs then.
  void erase(Node& node) {
    node.value.reset();
    Node* at = &node;
    while (at != &root_ && at->value == nullptr && at->children.empty()) at = cut(*at);
    if (at != &root_ && at->value == nullptr && at->children.size() == 1) join(*at);
  }

  [[nodiscard]] std::uint64_t nodes() const { return nodes_; }
  // What nodes and tokens take, values aside.
  [[nodiscard]] std::uint64_t bytes() const { return nodes_ * kNodeBytes + tokens_ * sizeof(TokenId); }
  // Of a tree of one sequence.
  [[nodiscard]] static std::uint64_t bytes_of_one(std::size_t tokens) { return kNodeBytes + tokens * sizeof(TokenId); }

 private:
  // The node, its place in a map, and what an allocator adds to each of the two and the tokens.
  static constexpr std::uint64_t kNodeBytes = sizeof(Node) + 48 + 3 * 16;

  Node& add(Node& parent, std::span<const TokenId> tokens) {
    auto node = std::make_unique<Node>();
    node->tokens.assign(tokens.begin(), tokens.end());
    node->parent = &parent;
    ++nodes_;
    tokens_ += tokens.size();
    return *(parent.children[tokens.front()] = std::move(node));
  }

  // A node of the first `count` tokens of this edge, above the rest.
  Node& split(std::unique_ptr<Node>& place, std::ptrdiff_t count) {
    auto upper = std::make_unique<Node>();
    const auto middle = place->tokens.begin() + count;
    upper->tokens.assign(place->tokens.begin(), middle);
    upper->parent = std::exchange(place->parent, upper.get());
    place->tokens = std::vector<TokenId>(middle, place->tokens.end());
    upper->children[place->tokens.front()] = std::move(place);
    place = std::move(upper);
    ++nodes_;
    return *place;
  }

  // Its only child takes its place and tokens.
  void join(Node& node) {
    std::unique_ptr<Node> child = std::move(node.children.begin()->second);
    std::vector<TokenId> tokens;
    tokens.reserve(node.tokens.size() + child->tokens.size());
    tokens.insert(tokens.end(), node.tokens.begin(), node.tokens.end());
    tokens.insert(tokens.end(), child->tokens.begin(), child->tokens.end());
    child->tokens = std::move(tokens);
    child->parent = node.parent;
    --nodes_;
    node.parent->children[child->tokens.front()] = std::move(child);
  }

  // Removes a leaf; its parent.
  Node* cut(Node& leaf) {
    Node* const parent = leaf.parent;
    --nodes_;
    tokens_ -= leaf.tokens.size();
    parent->children.erase(leaf.tokens.front());
    return parent;
  }

  Node root_;
  std::uint64_t nodes_ = 0;
  std::uint64_t tokens_ = 0;  // of all nodes
};

}  // namespace dalsegno
