"""Chat templates render as transformers does, and only what they may see."""

from __future__ import annotations

import pytest

from fusedlm.generate import ChatTemplate

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = """\
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- bos_token }}
{%- set seen = namespace(turns=0) %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate') }}
    {%- endif %}
    {%- set seen.turns = seen.turns + 1 %}
    {%- if message.content == 'skip' %}{% continue %}{% endif %}
    {{- '[' ~ message.role ~ '] ' ~ message.content | tojson ~ eos_token }}
{%- endfor %}
{{- seen.turns }}{{ system if system is defined }}
"""
CHAT = [
    {"role": "system", "content": " be kind "},
    {"role": "user", "content": "<hi> & 'you'"},
    {"role": "assistant", "content": "skip"},
    {"role": "user", "content": "ünicode"},
]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


MARKED = """\
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{ message.content }}{% endgeneration %}
    {%- else %}
        {{- message | tojson(separators=(',', ':'), sort_keys=true) }}
        {{- {'b': 1, 'a': message.content} | tojson(indent=2) }}{{ message | tojson(true) }}
    {%- endif %}
{%- endfor %}
"""


@pytest.mark.parametrize("source", [CHATML, LLAMA2, MARKED])
@pytest.mark.parametrize("prompt", [True, False])
def test_the_text_is_that_of_transformers(source, prompt):
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    theirs = utils.render_jinja_template(
        [CHAT], chat_template=source, add_generation_prompt=prompt, **SPECIAL
    )[0][0]
    ours = ChatTemplate(source, SPECIAL).render(CHAT, add_generation_prompt=prompt)
    assert ours == theirs and "ünicode" in ours


def test_what_a_template_refuses_is_said():
    with pytest.raises(ValueError, match="refuses these messages: roles must alternate"):
        ChatTemplate(LLAMA2, SPECIAL).render([{"role": "assistant", "content": "x"}])


def test_messages_that_do_not_fit_are_named():
    template = ChatTemplate(CHATML)
    for messages, error in (
        ([], "messages is empty"),
        (["x"], r"messages\[0\] is 'x'"),
        ([*CHAT, {"role": "cat", "content": ""}], r"messages\[4\].role is 'cat'"),
        ([{"role": "user", "content": 1}], r"messages\[0\].content is 1"),
    ):
        with pytest.raises(ValueError, match=error):
            template.render(messages)


def test_a_developers_message_is_the_systems():
    text = ChatTemplate(CHATML).render([{"role": "developer", "content": "x"}])
    assert text.startswith("<|im_start|>system\nx")


def test_a_template_that_is_none_is_refused():
    with pytest.raises(ValueError, match="chat template: "):
        ChatTemplate("{% for %}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__.os }}",
        "{% set _ = messages.append(1) %}",
        "{{ cycler.__init__.__globals__.os }}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(source):
    with pytest.raises(ValueError, match="refuses these messages"):
        ChatTemplate(source).render([{"role": "user", "content": "x"}])
