#include "runtime/token_tree.hpp"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace dalsegno {
namespace {

using Tree = TokenTree<int>;
using Tokens = std::vector<TokenId>;

TEST(TokenTree, HoldsWhatAMapWouldHold) {
  std::mt19937 random(5);
  Tree tree;
  std::map<Tokens, Tree::Node*> expected;
  for (int step = 0; step < 20000; ++step) {
    Tokens tokens(1 + random() % 9);
    for (TokenId& token : tokens) token = static_cast<TokenId>(random() % 3);
    const bool filling = step / 2000 % 2 == 0;
    if (random() % 8 < (filling ? 6U : 2U)) {
      Tree::Node& node = tree.put(tokens);
      const auto known = expected.find(tokens);
      ASSERT_EQ(node.value != nullptr, known != expected.end());
      if (known != expected.end()) {
        ASSERT_EQ(&node, known->second) << "a node with a value stays where it is";
      } else {
        node.value = std::make_unique<int>(step);
        expected.emplace(tokens, &node);
      }
    } else if (const auto known = expected.lower_bound(tokens); known != expected.end()) {
      tree.erase(*known->second);
      expected.erase(known);
    }
    ASSERT_LE(tree.nodes(), 2 * expected.size()) << "nodes without a value part two others";
  }
  while (!expected.empty()) {
    tree.erase(*expected.begin()->second);
    expected.erase(expected.begin());
  }
  EXPECT_EQ(tree.bytes(), 0U);
}

TEST(TokenTree, CommonBeginningsAreKeptOnce) {
  Tree tree;
  Tokens tokens(1000, 7);
  tree.put(tokens).value = std::make_unique<int>(0);
  EXPECT_EQ(tree.bytes(), Tree::bytes_of_one(1000));
  const std::uint64_t one = tree.bytes();
  tokens.push_back(8);
  tree.put(tokens).value = std::make_unique<int>(1);
  EXPECT_EQ(tree.bytes(), one + Tree::bytes_of_one(1));
}

TEST(TokenTree, MayBeAsDeepAsASequenceIsLong) {
  Tree tree;
  Tree::Node* first = nullptr;
  Tokens tokens;
  for (int i = 0; i < 3000; ++i) {
    tokens.push_back(i);
    Tree::Node& node = tree.put(tokens);
    node.value = std::make_unique<int>(i);
    if (i == 0) first = &node;
  }
  tree.erase(*first);
  EXPECT_EQ(tree.nodes(), 2999U);
  EXPECT_EQ(*tree.put(tokens).value, 2999);
}

}  // namespace
}  // namespace dalsegno
