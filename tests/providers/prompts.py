"""The prompts of a batch, and the answers of the models behind the providers."""

from __future__ import annotations

from collections.abc import Mapping

COUNT = 200

#: One for each third request; characters of two, three and four bytes in UTF-8.
_SCRIPTS = (
    "Кратко опишите город Владивосток и его порт, номер {n}.",  # noqa: RUF001 - Cyrillic
    "请用一句话介绍上海的历史，编号 {n}。",  # noqa: RUF001 - Chinese
    "What do 🦊🌋🎻 and 👩‍🚀 have in common? Answer no. {n} in one line.",
)


#: Enough non-ASCII text for many chunk borders to fall into characters.
LONG = {f"request-{n}": "Жёлтый 🦊 上海 " * 40 for n in range(400)}


def prompts(count: int = COUNT) -> dict[str, str]:
    """Return prompts by custom_id: a third of them in Cyrillic, Chinese and emoji."""
    return {f"request-{n:03}": _prompt(n) for n in range(count)}


def _prompt(n: int) -> str:
    if n % 3 == 1:
        return _SCRIPTS[n // 3 % len(_SCRIPTS)].format(n=n)
    return f"Describe item number {n} of the catalogue in one sentence, please."


def reply(prompt: str) -> str:
    """Return the answer of every model. It repeats the prompt, so that a damaged character is noticed."""
    return f"“{prompt}” — done ✓"


def embedding(text: str) -> list[float]:
    """Return the answer of every embeddings model: the characters, so that a damaged one is noticed."""
    return [ord(character) / 8 for character in text]


def text_of(message: Mapping[str, object]) -> str:
    """Return the text of a message whose content is a string or a list of parts."""
    content = message["content"] if "content" in message else message.get("parts")
    if isinstance(content, str):
        return content
    assert isinstance(content, list)
    return "".join(part["text"] for part in content)
