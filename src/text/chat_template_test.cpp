#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "text/vocabulary.hpp"

namespace dalsegno {
namespace {

using ::testing::HasSubstr;

constexpr const char* kMessages = R"({"messages":[{"role":"user","content":"Hi"}]})";

Result<std::string> render(std::string_view source, std::string_view context = kMessages) {
  auto made = ChatTemplate::create(source, "<s>", "</s>");
  if (!made.ok()) return std::move(made).error();
  return (*made)->render(context);
}

std::string rendered(std::string_view source, std::string_view context = kMessages) {
  auto text = render(source, context);
  return text.ok() ? *text : "error: " + text.error().message;
}

Error refused(std::string_view source, std::string_view context = kMessages) {
  auto text = render(source, context);
  EXPECT_FALSE(text.ok()) << source;
  return text.ok() ? Error{} : text.error();
}

TEST(ChatTemplate, RendersAConversation) {
  constexpr const char* kSource =
      "{{ bos_token }}{% for m in messages %}\n"
      "    {% if m.role == 'user' %}\n"
      "U:{{ m['content'] | trim }}\n"
      "    {% endif %}\n"
      "{% endfor %}{% if add_generation_prompt %}A:{% endif %}{{ eos_token }}\n";
  EXPECT_EQ(rendered(kSource, R"({"messages":[{"role":"user","content":" Hi "}],"add_generation_prompt":true})"),
            "<s>U:Hi\nA:</s>");
}

TEST(ChatTemplate, HasPythonsMethods) {
  EXPECT_EQ(rendered("{{ ' a,b '.strip().split(',')[1].upper() }}{{ 'ab'.startswith('a') }}"), "BTrue");
  EXPECT_EQ(rendered("{{ {'a': 1}.get('b', 2) }}{% for k, v in {'x': 1}.items() %}{{ k }}={{ v }}{% endfor %}"),
            "2x=1");
  EXPECT_EQ(rendered("{{ 'aXa'.replace('a', 'b') }}{{ 'aaa'.replace('a', 'b', 1) }}{{ '-'.join(['a', 'b']) }}"),
            "bXbbaaa-b");
}

TEST(ChatTemplate, PrintsAsPython) {
  EXPECT_EQ(rendered("{{ [1, 'a', none, true, 1.0, {'k': \"it's\"}] }}"), "[1, 'a', None, True, 1.0, {'k': \"it's\"}]");
  EXPECT_EQ(rendered("{{ none }}{{ false }}{{ missing }}{{ 1e20 }}"), "NoneFalse1e+20");
  EXPECT_EQ(rendered("{{ 'a' ~ true ~ 1 }}{{ ['é'] | string }}{{ [true] | upper }}"), "aTrue1['é'][TRUE]");
}

TEST(ChatTemplate, WritesJsonAsPython) {
  EXPECT_EQ(rendered("{{ {'b': [1, 2.0, none], 'a': '<é\\n\"'} | tojson }}"),
            "{\"b\": [1, 2.0, null], \"a\": \"<é\\n\\\"\"}");
  EXPECT_EQ(rendered("{{ {'b': [1], 'a': {}} | tojson(indent=2) }}"), "{\n  \"b\": [\n    1\n  ],\n  \"a\": {}\n}");
  EXPECT_EQ(rendered("{{ {'b': 'é', 'a': 1} | tojson(ensure_ascii=true, sort_keys=true, separators=(',', ':')) }}"),
            "{\"a\":1,\"b\":\"\\u00e9\"}");
  EXPECT_EQ(rendered("{{ messages | tojson }}"), R"([{"role": "user", "content": "Hi"}])");
  EXPECT_THAT(refused("{{ missing | tojson }}").message, HasSubstr("JSON"));
}

TEST(ChatTemplate, KeepsTheOrderOfKeys) {
  EXPECT_EQ(rendered("{% for k in x %}{{ k }}{% endfor %}", R"({"messages":[],"x":{"b":1,"a":2,"c":3}})"), "bac");
}

TEST(ChatTemplate, HasLoopControlsAndGenerationMarks) {
  EXPECT_EQ(rendered("{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}"
                     "{% endif %}{{ i }}{% endfor %}"),
            "02");
  EXPECT_EQ(rendered("a{%- generation -%} b {%- endgeneration -%} c"), "abc");
  EXPECT_EQ(rendered("{% generation %}x{% endgeneration %}"), "x");
}

TEST(ChatTemplate, NamespacesCanBeAssignedTo) {
  EXPECT_EQ(rendered("{% set ns = namespace({'a': 1}) %}{% set ns.b = 2 %}{{ ns.a }}{{ ns.b }}{{ ns.c is defined }}"),
            "12False");
  EXPECT_EQ(rendered("{% set ns = namespace(a='') %}{% for i in range(3) %}{% set ns.a %}{{ ns.a }}{{ i }}{% endset %}"
                     "{% endfor %}{{ ns.a }}"),
            "012");
  EXPECT_EQ(rendered("{% set ns = namespace() %}{% set ns.a | upper %}x{% endset %}{{ ns.a }}{{ ns }}"), "X{'a': 'X'}");
  EXPECT_THAT(refused("{% set d = {} %}{% set d.a = 1 %}").message, HasSubstr("cannot be assigned to"));
}

// A leak would show under the address sanitizer.
TEST(ChatTemplate, NamespacesThatHoldThemselvesAreFreed) {
  EXPECT_EQ(rendered("{% set a = namespace() %}{% set a.b = [{'c': a}] %}{{ a.b[0].c.b is defined }}"), "True");
  EXPECT_EQ(rendered("{% set a = namespace() %}{% macro f() %}{{ a.x }}{% endmacro %}{% set a.f = f %}{% set a.x = 1 %}"
                     "{{ a.f() }}"),
            "1");
  EXPECT_THAT(refused("{% set a = namespace() %}{% set a.b = a %}{{ a }}").message, HasSubstr("nested deeper"));
}

TEST(ChatTemplate, SlicesAsPython) {
  EXPECT_EQ(
      rendered("{{ [1, 2, 3, 4][::-1] }}{{ [1, 2, 3, 4][3:0:-2] }}{{ [][::-1] }}{{ [1, 2][-9:9] }}{{ [1, 2][5:] }}"),
      "[4, 3, 2, 1][4, 2][][1, 2][]");
  EXPECT_EQ(rendered("{{ 'abc'[::-1] }}{{ ''[::-1] }}{{ 'abc'[1:] }}{{ 'é1'[:1] }}"), "cbabcé");
  EXPECT_THAT(refused("{{ [1][::0] }}").message, HasSubstr("step of 0"));
  EXPECT_THAT(refused("{{ none[1:] }}").message, HasSubstr("cannot be sliced"));
}

TEST(ChatTemplate, TextFiltersTakeAnyValue) {
  EXPECT_EQ(rendered("{{ [none] | trim }}{{ ' A ' | trim | lower }}{{ [true] | lower }}{{ 'xax' | trim('x') }}"),
            "[None]a[true]a");
}

TEST(ChatTemplate, TextsAndMapsAreSequences) {
  EXPECT_EQ(rendered("{{ 'a' is sequence }}{{ {} is sequence }}{{ [] is sequence }}{{ 1 is sequence }}"),
            "TrueTrueTrueFalse");
}

TEST(ChatTemplate, NoneIsNotIterable) {
  EXPECT_EQ(rendered("{{ none is iterable }}{{ [] is iterable }}"), "FalseTrue");
}

TEST(ChatTemplate, ArithmeticIsPlain) {
  EXPECT_EQ(
      rendered("{{ 1 + 2 }} {{ 2 * 3 }} {{ 1.5 + 1 }} {{ 'a' + 'b' }} {{ 'ab' * 2 }} {{ [1] + [2] }} {{ 2 ** 3 }}"),
      "3 6 2.5 ab abab [1, 2] 8");
  EXPECT_EQ(
      rendered("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}"),
      "1");
  EXPECT_EQ(rendered("{% macro m(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ m(1) }} {{ m(1, b=3) }}"), "1-2 1-3");
  EXPECT_EQ(rendered("{{ messages[0].content[0] }}{{ messages[0:1] | length }}{{ 'H' in messages[0].content }}"),
            "H1True");
  EXPECT_EQ(
      rendered("{{ messages | map(attribute='role') | join('+') }}{{ messages | selectattr('role', 'equalto', 'user') "
               "| list | length }}"),
      "user1");
  EXPECT_EQ(rendered("{{ 'a\nb' | indent(2) }}|{{ '%s-%03d' | format('x', 7) }}|{{ '{}:{:>3}'.format(1, 2) }}"),
            "a\n  b|x-007|1:  2");
}

TEST(ChatTemplate, TellsTheTime) {
  const std::string year = rendered("{{ strftime_now('%Y') }}");
  EXPECT_EQ(year.size(), 4U);
  EXPECT_GT(year, "2023");
  EXPECT_THAT(refused("{{ strftime_now('x' * 300) }}").message, HasSubstr("strftime_now"));
}

TEST(ChatTemplate, RefusesInTheTemplatesOwnWords) {
  const Error error = refused("{{ raise_exception('Roles must alternate.') }}");
  EXPECT_EQ(error.code, ErrorCode::invalid_argument);
  EXPECT_EQ(error.message, "the chat template refuses: Roles must alternate.");
  EXPECT_THAT(refused("{% macro m() %}{{ raise_exception('no') }}{% endmacro %}{{ m() }}").message,
              HasSubstr("refuses: no"));
}

TEST(ChatTemplate, NamesTheLineOfASyntaxError) {
  const Error error = refused("a\n{% if %}");
  EXPECT_EQ(error.code, ErrorCode::invalid_argument);
  EXPECT_THAT(error.message, HasSubstr("chat_template:2"));
  EXPECT_EQ(refused(std::string(300'000, 'a')).code, ErrorCode::unsupported);
  EXPECT_EQ(refused("\xFF").code, ErrorCode::corrupt);
}

TEST(ChatTemplate, RefusesAContextThatIsNone) {
  for (const char* bad :
       {"", "{", "[]", "{}", "3", R"({"messages":{}})", "{\"messages\":[\"\xFF\"]}", "{\"messages\":[]}x"}) {
    EXPECT_EQ(refused("x", bad).code, ErrorCode::invalid_argument) << bad;
  }
  EXPECT_EQ(refused("x", std::string(100'000, '[')).code, ErrorCode::invalid_argument);
  EXPECT_EQ(rendered("{{ bos_token }}", R"({"messages":[],"bos_token":"mine"})"), "mine");
}

TEST(ChatTemplate, HasNoOtherTemplates) {
  for (const char* source :
       {"{% include 'a' %}", "{% import 'a' as b %}", "{% from 'a' import b %}", "{% extends 'a' %}"}) {
    EXPECT_EQ(refused(source).code, ErrorCode::invalid_argument) << source;
  }
}

// Each would take hours, gigabytes or the whole stack.
TEST(ChatTemplate, HostileTemplatesAreStopped) {
  const std::string loops = "{% for i in range(100000) %}{% for j in range(100000) %}";
  const std::string ends = "{% endfor %}{% endfor %}";
  const std::string doubling = "{% set ns = namespace(s='xxxxxxxxxxxxxxxx') %}{% for i in range(60) %}";
  const std::string sources[] = {
      loops + ends,
      loops + std::string(1000, 'x') + ends,
      loops + "{% set a %}" + std::string(1000, 'x') + "{% endset %}" + ends,
      doubling + "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
      doubling + "{% set ns.s = ns.s + ns.s %}{% endfor %}",
      doubling + "{% set ns.s = ns.s * 2 %}{% endfor %}",
      doubling + "{% set ns.s = ns.s.replace('x', 'xx') %}{% endfor %}",
      doubling + "{% set ns.s = ns.s | replace('x', 'xx') %}{% endfor %}",
      doubling + "{% set ns.s = [ns.s, ns.s] | join %}{% endfor %}",
      doubling + "{% set ns.s = ''.join([ns.s, ns.s]) %}{% endfor %}",
      doubling + "{% set ns.s = '%s%s' | format(ns.s, ns.s) %}{% endfor %}",
      doubling + "{% set ns.s = '{0}{0}'.format(ns.s) %}{% endfor %}",
      doubling + "{% set t %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = t %}{% endfor %}",
      doubling + "{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
      doubling + "{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s | tojson }}",
      doubling + "{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s == [ns.s] }}",
      doubling + "{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ [ns.s, ns.s] | sort | length }}",
      doubling + "{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ [ns.s] | unique | list | length }}",
      doubling + "{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ {ns.s: 1} | length }}",
      doubling + "{% set ns.s = ns.s | zip(ns.s) %}{% endfor %}{{ ns.s | list | length }}",
      "{% set s = 'a b ' * 1000000 %}{% for i in range(100000) %}{% set q = s.split() %}{% endfor %}",
      "{{ 'x' * 10**9 }}",
      "{{ 'x' * 99999999 }}",
      "{{ ([1] * 10**9) | list | length }}",
      "{{ ('x' * 9999 * 9999) | length }}",
      "{{ range(10**9) | list | length }}",
      "{{ '%999999999d' | format(1) }}",
      "{{ '%*d' | format(999999999, 1) }}",
      "{{ '{:>999999999}'.format(1) }}",
      "{{ 'a\n' * 1000 | indent(10**9) }}",
      "{{ [1] | batch(10**9, 0) | list }}",
      "{{ [1] | slice(10**9) | list }}",
      "{{ [[1]] | tojson(indent=10**9) }}",
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{% set ns = namespace(s=[]) %}{% for i in range(100000) %}{% for j in range(100000) %}{% set ns.s = [ns.s] %}" +
          ends,
      "{% set ns = namespace(s=[]) %}{% for i in range(100000) %}{% for j in range(100000) %}{% set ns.s = {'a': ns.s} "
      "%}" +
          ends,
      "{% set ns = namespace(s=[]) %}{% for i in range(100000) %}{% for j in range(100000) %}{% set ns.s = ns.s + ns.s "
      "+ [1] %}" +
          ends,
      "{% set s = 'x' * 9999999 %}{% for i in range(100000) %}{% if s[1:] == s %}{% endif %}{% endfor %}",
      "{% set s = 'x' * 9999999 %}{% for i in range(100000) %}{{ s[9999998] }}{% endfor %}",
      "{% set s = 'x' * 9999999 %}{% for i in range(100000) %}{{ 'y' in s }}{% endfor %}",
      "{% set s = 'x' * 9999999 %}{{ ([s] * 100000) | map('upper') | list | length }}",
  };
  for (const std::string& source : sources) {
    const auto text = render(source);
    ASSERT_FALSE(text.ok()) << source.substr(0, 200) << " gave " << text->size() << " bytes";
    EXPECT_THAT(text.error().message, HasSubstr("the chat template")) << source.substr(0, 200);
  }
}

TEST(ChatTemplate, ALimitIsAnErrorOfItsOwnKind) {
  const Error error = refused("{% for i in range(100000) %}\n{% for j in range(100000) %}{% endfor %}{% endfor %}");
  EXPECT_EQ(error.code, ErrorCode::exhausted);
  EXPECT_EQ(error.message, "the chat template was stopped in line 2: it takes too many steps");
}

// What the limits are for is not what stops these: they are done, or refused, at once.
TEST(ChatTemplate, OddTemplatesDoNotHang) {
  EXPECT_EQ(rendered("{{ 'abc'.count('') }}"), "4");
  EXPECT_EQ(rendered("{% set a = namespace() %}{% set a.b = a %}{{ a.b.b is defined }}"), "True");
  std::string deep = "{{ ";
  for (int i = 0; i < 20'000; ++i) deep += "1 + ";
  EXPECT_EQ(rendered(deep + "1 }}"), "20001");
  EXPECT_EQ(refused("{{ " + std::string(10'000, '(') + " }}").code, ErrorCode::invalid_argument);
  EXPECT_EQ(refused("{{ " + std::string(10'000, '[') + " }}").code, ErrorCode::invalid_argument);
  std::string ifs;
  for (int i = 0; i < 10'000; ++i) ifs += "{% if 1 %}";
  EXPECT_EQ(refused(ifs).code, ErrorCode::invalid_argument);
}

TEST(ChatTemplate, LongConversationsAreNotHostile) {
  std::string context = R"({"messages":[)";
  for (int i = 0; i < 2000; ++i) {
    context += (i > 0 ? "," : "") + std::string(R"({"role":"user","content":")") + std::string(2000, 'x') + "\"}";
  }
  context += "]}";
  const std::string text = rendered(
      "{% for m in messages %}{% if m['role'] not in ['user', 'assistant'] %}{{ raise_exception('role') }}{% endif %}"
      "{% set c = m['content'] | trim %}{{ '<|' + m['role'] + '|>' + c + eos_token }}{% endfor %}",
      context);
  EXPECT_EQ(text.size(), 2000U * (2000 + 8 + 4));
}

}  // namespace
}  // namespace dalsegno
