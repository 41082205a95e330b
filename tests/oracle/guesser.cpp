#include "oracle/guesser.hpp"

namespace dalsegno::oracle {
namespace {

constexpr int kVocabulary = 264;

}  // namespace

Drafter::Draft Guesser::draft(const Question& question) {
  Draft draft;
  if (question.most == 0 || random_.one_in(4)) return draft;
  const int most = 1 + random_.below(question.most);
  const int source = random_.below(4);
  if (source < 2) draft.tokens = question.cached(most);
  if (source == 2 || draft.tokens.empty()) {
    const auto run = runs_.find(question.tokens);
    for (auto at = run ? static_cast<std::size_t>(run->end) : question.tokens.size();
         at < question.tokens.size() && std::cmp_less(draft.tokens.size(), most); ++at) {
      draft.tokens.push_back(question.tokens[at]);
    }
  }
  if (source == 3) {
    while (std::cmp_less(draft.tokens.size(), most)) draft.tokens.push_back(random_.below(kVocabulary));
  }
  if (!draft.tokens.empty() && random_.one_in(4)) {
    draft.tokens[static_cast<std::size_t>(random_.below(static_cast<int>(draft.tokens.size())))] =
        random_.below(kVocabulary);
  }
  return draft;
}

}  // namespace dalsegno::oracle
