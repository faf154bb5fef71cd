#!/usr/bin/env python3
"""Goldens of chat templates: conversations rendered by transformers' own environment.

Run with the Python that has `transformers` ($AIR_ORACLES/torch/bin/python). The templates are those of llama.cpp's
sources: the files of `models/templates` and the string literals of `tests/test-chat-template.cpp`. Writes
$AIR_ORACLES/chat/<name>.json, which `tests/chat_templates.rs` compares with when it is there:
{name, template, bos, eos, cases: [{messages, add_generation_prompt, variables, output | null}, …]}. A null output
stands for an error of the template. The clock stands still at NOW.
"""

import ast
import datetime
import json
import os
import re
from pathlib import Path

from transformers.utils import chat_template_utils as hf

ORACLES = Path(os.environ.get("AIR_ORACLES", Path.home() / ".cache/air-oracles"))
LLAMA = ORACLES / "llama-src/vendor/llama.cpp"
NOW = datetime.datetime(2026, 3, 7, 14, 5, 9)


def conversation(*turns: str) -> list[dict]:
    """`s` begins a system message, `u` a user's, `a` the assistant's."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[t[0]], "content": t[2:]} for t in turns]


CONVERSATIONS = [
    conversation("u:Hello"),
    conversation("s:You are terse.", "u:Hello"),
    conversation("u:Hello", "a:Hi there", "u:Who are <you> & \"why\"?\n"),
    conversation("s:  You are\nterse.  ", "u: Hello ", "a:   I am.   ", "u:Été 🦙 ¿qué?"),
    conversation("u:2+2?", "a:<think>\nfour, I think\n</think>\n\n4", "u:Sure?"),
    conversation("u:one", "u:two"),
    conversation("a:I begin", "u:why?"),
    conversation("s:only a system message"),
    conversation("u:a", "a:b", "u:c", "a:d"),
    [],
    [{"role": "tool", "content": "{\"x\": 1}"}, {"role": "user", "content": "and?"}],
]


TINY = {
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] | trim + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "speaker": "{% for m in messages %}\n{{ m.role | upper }}:\n{{ m.content }}\n\n{% endfor %}\n"
    "{%- if add_generation_prompt %}\nASSISTANT:\n{% endif %}\n",
    "alternate": "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}[{{ m.role[0] }}]{{ m.content }}{{ eos_token }}{% endfor %}",
    "json": "{{ messages | tojson }} {{ messages | tojson(indent=2) }} {{ {'a': [1, 2.5, 1e-7, true, none], 'é<>&': '\\u2028\\\\'} | tojson }}"
    "{{ [] | tojson(indent=4) }}{{ {'b': 1, 'a': 'é'} | tojson(ensure_ascii=True, sort_keys=True, separators=(',', ':')) }}",
    "python": "{% set ns = namespace(n=0, s='') %}{% for m in messages if m.role != 'system' %}{% if loop.index > 3 %}{% break %}"
    "{% endif %}{% set ns.n = ns.n + 1 %}{% set ns.s = ns.s ~ m.content.strip().split('\\n')[-1].replace('e', '3').title() %}"
    "{% endfor %}{{ ns.n }} {{ ns.s }} {{ true }} {{ none }} {{ 1.0 }} {{ ns.s[::-1] }} {{ messages[1:] | length }} "
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join('|') }} "
    "{% if tools is not none %}tools{% endif %}{% if x is defined %}x{% endif %} {{ 'a-b'.removeprefix('a-') }} {{ 'x\\ny' | indent(3) }}",
    "training": "{% for m in messages %}\n  {%- if m.role == 'assistant' %}\n    {% generation %}\n{{ m.content }}\n"
    "    {%- endgeneration %}\n  {% else %}\n> {{ m.content }}\n  {% endif %}\n{% endfor %}{{ strftime_now('%d %b %Y %H:%M %A %j %-d') }}",
    "macro": "{% macro turn(m, mark='#') -%}\n  {{ mark }} {{ caller() if caller else m.content }}\n{% endmacro -%}\n"
    "{% for m in messages %}{{ turn(m) }}{% call turn(m, mark='*') %}{{ loop.index }}{% endcall %}{% else %}empty{% endfor %}",
}


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def literals() -> dict[str, str]:
    """Templates written as C strings: `/* .template_str= */ "…" "…",`"""
    source = (LLAMA / "tests/test-chat-template.cpp").read_text()
    out = {}
    string = r'(?:u8)?"(?:[^"\\]|\\.)*"|U8C\("(?:[^"\\]|\\.)*"\)'
    pattern = rf'/\* \.name= \*/ ("(?:[^"\\]|\\.)*"),\s*/\* \.template_str= \*/\s*((?:{string})(?:\s*(?:{string}))*)\s*,'
    for name, parts in re.findall(pattern, source):
        pieces = re.findall(r'"((?:[^"\\]|\\.)*)"', parts)
        out["literal " + ast.literal_eval(name)] = "".join(ast.literal_eval(f'"{p}"') for p in pieces)
    return out


def render(template: str, messages: list[dict], prompt: bool, variables: dict) -> str | None:
    try:
        rendered, _ = hf.render_jinja_template([messages], chat_template=template, add_generation_prompt=prompt, **variables)
        return rendered[0]
    except Exception:  # noqa: BLE001 -- whatever the template raises is the golden
        return None


def golden(name: str, template: str) -> dict:
    bos, eos = "<s>", "</s>"
    cases = []
    for messages in CONVERSATIONS:
        for prompt in (False, True):
            for variables in ({}, {"enable_thinking": False}) if "enable_thinking" in template else ({},):
                output = render(template, messages, prompt, {"bos_token": bos, "eos_token": eos, **variables})
                cases.append({"messages": messages, "add_generation_prompt": prompt, "variables": variables, "output": output})
    return {"name": name, "template": template, "bos": bos, "eos": eos, "cases": cases}


def main() -> None:
    hf.datetime = Clock
    out = ORACLES / "chat"
    out.mkdir(exist_ok=True)
    tiny = [golden(name, template) for name, template in TINY.items()]
    for data in tiny:
        data["cases"] = data["cases"][2:10:2] + data["cases"][-1:]
    Path(__file__).parents[2].joinpath("tests/goldens/chat/tiny.json").write_text(json.dumps(tiny, ensure_ascii=False, indent=1))
    templates = {p.stem: p.read_text() for p in sorted((LLAMA / "models/templates").glob("*.jinja"))} | literals()
    for name, template in templates.items():
        data = golden(name, template)
        (out / (re.sub(r"[^A-Za-z0-9.]+", "-", name) + ".json")).write_text(json.dumps(data))
        print(f"{name}: {sum(c['output'] is not None for c in data['cases'])} of {len(data['cases'])} render")


main()
