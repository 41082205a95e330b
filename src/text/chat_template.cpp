#include "dalsegno_bridge.h"
#include "text/bridge_call.hpp"
#include "text/vocabulary.hpp"

namespace dalsegno {

struct ChatTemplate::Impl {
  struct Free {
    void operator()(dsb_template* handle) const { dsb_template_free(handle); }
  };
  std::unique_ptr<dsb_template, Free> compiled;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::~ChatTemplate() = default;

Result<std::unique_ptr<ChatTemplate>> ChatTemplate::create(std::string_view source, std::string_view bos_token,
                                                           std::string_view eos_token) {
  dsb_template* made = nullptr;
  BridgeBuffer error;
  const int code = dsb_template_create(borrow(source), borrow(bos_token), borrow(eos_token), &made, error.out());
  if (code != DSB_OK) return bridge_error(code, error);
  auto impl = std::make_unique<Impl>();
  impl->compiled.reset(made);
  return std::unique_ptr<ChatTemplate>(new ChatTemplate(std::move(impl)));
}

Result<std::string> ChatTemplate::render(std::string_view context_json) const {
  BridgeBuffer text, error;
  const int code = dsb_template_render(impl_->compiled.get(), borrow(context_json), text.out(), error.out());
  if (code != DSB_OK) return bridge_error(code, error);
  return std::string(text.view());
}

}  // namespace dalsegno
