#!/usr/bin/env python3
"""chat_oracle.py - conversations become what transformers' apply_chat_template makes of the models' templates. TAP.

The templates below are those of the models named, as their tokenizer_config.json has them (published under Apache-2.0,
but Llama 2's, repeated in many places); more come from llama_cpp.llama_chat_format where that package is there,
and from the directory TEMPLATES, llama.cpp's models/templates say: each must be refused or give the same text.
Written against transformers 5.24.0."""
import datetime
import glob
import itertools
import json
import os
import shutil
import subprocess

import jinja2
import transformers
from transformers.utils import chat_template_utils

from shared.tap import BIN, check, run

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
STORIES = os.path.join(ROOT, "pipelines", "models", "stories260K")
os.environ["HF_HUB_OFFLINE"] = "1"

ALTERNATE = "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
TEMPLATES = {
    "SmolLM2": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "Qwen1.5": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "Llama 2": "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}" + ALTERNATE + "{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}"
    "{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "Vigogne 2": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% elif true == true and not '<<SYS>>' in "
    "messages[0]['content'] %}{% set loop_messages = messages %}{% set system_message = 'Vous êtes "
    "Vigogne, un assistant "
    "IA. C\\'est un \"test\".' %}{% else %}{% set loop_messages = messages %}{% set system_message = "
    "false %}{% endif %}"
    "{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}" + ALTERNATE +
    "{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + "
    "system_message + "
    "'\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'system' %}{{ '<<SYS>>\\n' + content.strip() + '\\n<</SYS>>\\n\\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "Mistral 7B v0.1": "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}" + ALTERNATE + "{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token + ' ' }}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
    "Mixtral 8x7B": "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}" + ALTERNATE + "{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
    "Mistral v1": "{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = "
    "messages[0]['content'] %}\n"
    "    {%- set loop_messages = messages[1:] %}\n{%- else %}\n    {%- set loop_messages = messages "
    "%}\n{%- endif %}\n\n"
    "{{- bos_token }}\n{%- for message in loop_messages %}\n"
    "    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\n        {{- "
    "raise_exception('After the optional "
    "system message, conversation roles must alternate user/assistant/user/assistant/...') }}\n    {%- endif %}\n"
    "    {%- if message['role'] == 'user' %}\n        {%- if loop.first and system_message is defined %}\n"
    "            {{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}\n       "
    " {%- else %}\n"
    "            {{- ' [INST] ' + message['content'] + ' [/INST]' }}\n        {%- endif %}\n"
    "    {%- elif message['role'] == 'assistant' %}\n        {{- ' ' + message['content'] + "
    "eos_token}}\n    {%- else %}\n"
    "        {{- raise_exception('Only user and assistant roles are supported, with the exception of an "
    "initial optional "
    "system message!') }}\n    {%- endif %}\n{%- endfor %}\n",
    "Granite 3.0": "{%- if tools %}\n    {{- '<|start_of_role|>available_tools<|end_of_role|>\n' }}\n"
    "    {%- for tool in tools %}\n    {{- tool | tojson(indent=4) }}\n    {%- if not loop.last %}\n     "
    "   {{- '\n\n' }}\n"
    "    {%- endif %}\n    {%- endfor %}\n    {{- '<|end_of_text|>\n' }}\n{%- endif %}\n{%- for message "
    "in messages %}\n"
    "    {%- if message['role'] == 'system' %}\n    {{- '<|start_of_role|>system<|end_of_role|>' + "
    "message['content'] + "
    "'<|end_of_text|>\n' }}\n    {%- elif message['role'] == 'user' %}\n    {{- "
    "'<|start_of_role|>user<|end_of_role|>' + "
    "message['content'] + '<|end_of_text|>\n' }}\n    {%- elif message['role'] == 'assistant' %}\n    {{- "
    "'<|start_of_role|>assistant<|end_of_role|>'  + message['content'] + '<|end_of_text|>\n' }}\n    {%- elif "
    "message['role'] == 'assistant_tool_call' %}\n    {{- '<|start_of_role|>assistant<|end_of_role|><|tool_call|>' + "
    "message['content'] + '<|end_of_text|>\n' }}\n    {%- elif message['role'] == 'tool_response' %}\n    {{- "
    "'<|start_of_role|>tool_response<|end_of_role|>' + message['content'] + '<|end_of_text|>\n' }}\n    "
    "{%- endif %}\n"
    "    {%- if loop.last and add_generation_prompt %}\n    {{- '<|start_of_role|>assistant<|end_of_role|>' }}\n"
    "    {%- endif %}\n{%- endfor %}",
}
# Files of TEMPLATES that must be known.
KNOWN = ["Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B", "ibm-granite-granite-3.3-2B-Instruct",
         "meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.2-3B-Instruct", "meta-llama-Llama-3.3-70B-Instruct",
         "mistralai-Mistral-Nemo-Instruct-2407"]
# What 3.2 writes in place of 3.3's tags, and 3.3 8B in place of the 2B's spaces.
OTHER_GRANITES = {
    "3.3 8B": [("April 2024. Today's", "April 2024.\\nToday's"), ('". You are Granite', '".\\nYou are Granite')],
    "3.2": [("April 2024. Today's", "April 2024.\\nToday's"), ('". You are Granite', '".\\nYou are Granite'),
            ("between <think></think> and write your response between <response></response>",
             "after 'Here is my thought process:' and write your response after 'Here is my response:'")],
}
DAY = datetime.datetime(2025, 2, 4, 12)


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return DAY


def conversations():
    """Lists of messages: with and without a system message, one to three questions, and wrong orders."""
    texts = ["Hello", "  spaces around\n", "It's \"quoted\" {{ braces }} {% x %}", "naïve café 漢字 🙂\u00a0",
             "two\n\nlines",
             "a\\n backslash", "", "<|im_end|> [INST] </s>"]
    answers = ["Hi there", " I am an assistant  ", "<think>\nhm\n</think>\n\nYes.", "<think>a</think>b</think>\n\nc",
               "ü"]
    texts, answers = itertools.cycle(texts), itertools.cycle(answers)
    for system in (None, "Be brief.", "  You're a test.\n", "Zeile\nzwei"):
        start = [] if system is None else [{"role": "system", "content": system}]
        for turns in range(1, 4):
            for _ in range(3):
                talk = list(start)
                for turn in range(turns):
                    talk += [{"role": "user", "content": next(texts)}, {"role": "assistant", "content": next(answers)}]
                yield talk[:-1]
        yield start + [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "<think>\nx\n</think>\n\nA"}]
    yield [{"role": "assistant", "content": "first"}, {"role": "user", "content": "second"}]
    yield [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]
    yield [{"role": "user", "content": "one"}, {"role": "system", "content": "late"},
           {"role": "user", "content": "two"}]


def theirs(tokenizer, template, talk, settings):
    try:
        return tokenizer.apply_chat_template(talk, chat_template=template, tokenize=False, add_generation_prompt=True,
                                             **settings)
    except (jinja2.exceptions.TemplateError, TypeError):
        return None


def ours(talks, options):
    """The texts of conversations, up to the first that is refused, and the exit code."""
    with open("talks.jsonl", "w") as file:
        file.writelines(json.dumps(talk) + "\n" for talk in talks)
    run = subprocess.run([f"{BIN}/generate", "model", "--template", "./template.jinja", "--messages", "talks.jsonl",
                          "--max-tokens", "0", "--json", *options], capture_output=True, text=True)
    return [json.loads(line)["prompt"] for line in run.stdout.splitlines()], run


def compare(what, tokenizer, template, settings, options, talks):
    expected = [theirs(tokenizer, template, talk, settings) for talk in talks]
    good = [(talk, text) for talk, text in zip(talks, expected) if text is not None]
    texts, run = ours([talk for talk, _ in good], options)
    wrong = [number for number, (_, text) in enumerate(good) if number >= len(texts) or texts[number] != text]
    for number in wrong[:2]:
        print(f"# {good[number]}\n# {texts[number] if number < len(texts) else run.stderr!r}")
    refused = [talk for talk, text in zip(talks, expected) if text is None]
    kept = [talk for talk in refused if ours([talk], options)[1].returncode != 64]
    for talk in kept[:2]:
        print(f"# not refused: {talk}")
    check(not wrong and not kept, f"{what}: {len(good)} texts, {len(refused)} refused")


def check_template(what, tokenizer, template, must=True):
    with open("template.jinja", "w") as file:
        file.write(template)
    talks = list(conversations())
    run = ours(talks[:1], [])[1]
    if run.returncode == 69 and not must:
        check("--template" in run.stderr, f"{what}: refused")
        return
    day = ["--date", "2025-02-04"] if "strftime_now" in template else []
    if "<<SYS>>" in template:    # leaves a late system message out, or writes it outside of turns: ours is strict
        talks = talks[:-1]
    if "enable_thinking" not in template:
        compare(what, tokenizer, template, {}, day, talks)
    if "date_string" in template:
        compare(f"{what}, date given", tokenizer, template, {"date_string": "04 Feb 2025"}, ["--date", "2025-02-04"],
                talks)
    if "elif thinking" in template:
        own = [talk for talk in talks if talk[0]["role"] != "system"]
        compare(f"{what}, thinking", tokenizer, template, {"thinking": True}, ["--thinking", *day], own)
    if "enable_thinking" in template:
        compare(f"{what}, thinking", tokenizer, template, {}, ["--thinking"], talks)
        compare(f"{what}, no thinking", tokenizer, template, {"enable_thinking": False}, [], talks)


def main():
    chat_template_utils.datetime = Clock
    shutil.copytree(STORIES, "model")
    with open("model/config.json") as file:
        config = json.load(file)
    config["max_position_embeddings"] = 1 << 14
    with open("model/config.json", "w") as file:
        json.dump(config, file)
    tokenizer = transformers.AutoTokenizer.from_pretrained("model")
    for what, template in TEMPLATES.items():
        check_template(what, tokenizer, template)
    try:
        from llama_cpp import llama_chat_format as peer
        for name in ("CHATML", "MISTRAL_INSTRUCT", "MIXTRAL_INSTRUCT", "LLAMA3_INSTRUCT"):
            check_template(f"llama_cpp's {name}", tokenizer, getattr(peer, f"{name}_CHAT_TEMPLATE"))
    except ImportError:
        check(True, "llama_cpp's templates", "no llama-cpp-python")
    for path in sorted(glob.glob(os.path.join(os.environ.get("TEMPLATES", "/nonexistent"), "*.jinja"))):
        name = os.path.basename(path)[:-6]
        with open(path) as file:
            template = file.read()
        check_template(name, tokenizer, template, name in KNOWN)
        if name.startswith("ibm-granite-granite-3.3"):
            for other, changes in OTHER_GRANITES.items():
                changed = template
                for a, b in changes:
                    changed = changed.replace(a, b)
                check_template(f"{name} changed to {other}", tokenizer, changed)
    if "TEMPLATES" not in os.environ:
        check(True, "templates of a directory", "TEMPLATES names none")


if __name__ == "__main__":
    run(main)
