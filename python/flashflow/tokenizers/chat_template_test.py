import contextlib
import sys

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from flashflow.errors import DataLossError, FlashFlowError, InvalidArgumentError, ResourceExhaustedError
from flashflow.tokenizers import chat_template
from flashflow.tokenizers.chat_template import ChatTemplate

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "Be kind<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Forms that published templates use: namespaces, loop controls, filters, tests, slices, macros, whitespace control.
LLAMA3 = """{{- bos_token }}
{%- set ns = namespace(system='') %}
{%- macro header(role) -%}<|start_header_id|>{{ role }}<|end_header_id|>{%- endmacro %}
{%- if messages[0]['role'] == 'system' %}
    {%- set ns.system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- header('system') ~ "\\n\\n" ~ ns.system }}
{% for message in messages %}
    {% if message.role not in ['user', 'assistant'] %}
        {{- raise_exception('roles must be user or assistant, not ' + message.role) }}
    {% endif %}
    {%- if loop.index0 > 5 %}{% break %}{% endif %}
    {{- header(message['role']) + '\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {{- {'n': loop.index, 'é': [1, 2.5, none, true]} | tojson }}
    {{- message.content.split('a') | join('-') | upper | replace('X', 'yy') }}
{% endfor %}
{%- if add_generation_prompt %}{{ header('assistant') }}{% endif %}"""
CONVERSATIONS = [
    [{"role": "user", "content": "Hello"}],
    [
        {"role": "system", "content": "  You are Bob.  "},
        {"role": "user", "content": "{{ 1 + 1 }} <b>xX&amp;</b> banana"},
        {"role": "assistant", "content": "日本語 🙂\n\n"},
        {"role": "user", "content": "?"},
    ],
]


@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("source", [CHATML, LLAMA3], ids=["chatml", "llama3"])
def test_renders_as_transformers(source, messages, add_generation_prompt):
    (expected,), _ = render_jinja_template(
        [messages], chat_template=source, add_generation_prompt=add_generation_prompt, bos_token="<s>"
    )
    assert ChatTemplate(source, {"bos_token": "<s>"}).render(messages, add_generation_prompt) == expected


USER = CONVERSATIONS[0]


def test_the_templates_own_refusal_reaches_the_caller():
    with pytest.raises(InvalidArgumentError, match="refuses the messages: roles must be user or assistant, not tool"):
        ChatTemplate(LLAMA3, {}).render([{"role": "tool", "content": "x"}])


@pytest.mark.parametrize(
    "messages",
    [[], "text", [1], [{}], [{"role": "user"}], [{"role": 3, "content": "x"}], [{"role": "user", "content": 1}]],
)
def test_malformed_messages(messages):
    with pytest.raises(InvalidArgumentError, match="message"):
        ChatTemplate(CHATML, {}).render(messages)


@pytest.mark.parametrize("source", ["{% for %}", "{{ x", "{% endif %}", "{{ 'a' | pprint }}", "{{ ( }}"])
def test_damaged_templates(source):
    with pytest.raises(DataLossError, match="chat template is damaged"):
        ChatTemplate(source, {})


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ raise_exception.__globals__['sys'] }}",
        "{{ namespace.__init__.__globals__ }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
        "{{ ''.format.__self__ }}{{ '{0.__class__}'.format(1) }}",
        "{{ cycler.__init__ }}",
    ],
)
def test_templates_reach_nothing_of_python(source):
    with contextlib.suppress(FlashFlowError):
        assert ChatTemplate(source, {}).render(USER) == ""  # undefined


def doubling(step):
    return "{% set n = namespace(s='xx') %}{% for i in range(60) %}" + step + "{% endfor %}"


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 10**9 }}",
        "{{ [1] * 100000000 }}",
        doubling("{% set n.s = n.s + n.s %}"),
        doubling("{% set n.s = n.s ~ n.s %}"),
        doubling("{% set n.s = n.s.replace('x', 'xx') %}"),
        doubling("{% set n.s = n.s | replace('x', 'xx') %}"),
        doubling("{% set n.s = [n.s, n.s] | join %}"),
        doubling("{% set n.s = ''.join([n.s, n.s]) %}"),
        doubling("{% set n.s %}{{ n.s }}{{ n.s }}{% endset %}"),
        "{{ 'x'.center(1000000000) }}",
        "{{ 'x'.ljust(1000000000) }}",
        "{{ '%1000000000d' % 3 }}",
        "{{ '%*d' % (1000000000, 3) }}",
        "{{ '{:>1000000000}'.format(3) }}",
        "{{ 'x' | indent(1000000000) }}",
        "{{ {} | tojson(indent=1000000000) }}",
        "{{ range(1000000000) | list }}",
        "{{ 10 ** (10 ** 10) }}",
        "{% set n = namespace(i=10) %}{% for i in range(60) %}{% set n.i = n.i * n.i %}{% endfor %}",
        "{% for i in range(4000) %}{{ 'x' * 4000 }}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_templates_that_make_too_much_are_stopped(source):
    with pytest.raises(ResourceExhaustedError, match="makes too much: .*(elements|number|format|exponent|Range|depth)"):
        ChatTemplate(source, {}).render(USER)


def test_endless_loops_are_stopped(monkeypatch):
    monkeypatch.setattr(chat_template, "_MAX_SECONDS", 0.2)
    loops = "{% for a in range(4000) %}" * 6 + "{% endfor %}" * 6
    with pytest.raises(ResourceExhaustedError, match="seconds"):
        ChatTemplate(loops, {}).render(USER)
    assert sys.gettrace() is None or "_with_deadline" not in repr(sys.gettrace())


def test_template_size_is_bounded():
    with pytest.raises(ResourceExhaustedError, match="characters"):
        ChatTemplate("x" * (1 << 21), {})
