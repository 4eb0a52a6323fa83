"""Owns the chat form of training text: beginnings become the user's turn and continuations
the assistant's.
Refuses held-out text: callers pass training documents only.
"""
import random
import re

from bpe import ASSISTANT, END, END_OF_TEXT, USER

CHAT_TEMPLATE = ("{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n"
                 "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}")
STORY_ASKS = ["Tell me a story.", "Tell me a short story.", "Please tell me a story.", "Can you tell me a story?",
              "Write a story.", "Write a short story for children."]


def turns(domain, text, rng):
    """One or more (user, assistant) pairs from a training document."""
    if domain == "math":
        question, _, answer = text.partition("\n")
        return [(question, answer)]
    if domain == "stories" and rng.random() < 0.5:
        hero = re.search(r"(?:named|called|name was) ([A-Z][a-z]+)", text)
        ask = rng.choice(STORY_ASKS)
        if hero and rng.random() < 0.7:
            ask = f"{ask[:-1]} about {hero.group(1)}{ask[-1]}"
        return [(ask, text)]
    out, pos = [], 0
    while pos < len(text) - 200:
        cut = pos + rng.randint(40, 300)
        cut = next((m.start() for m in re.compile(r"\s").finditer(text, cut)), None)
        if cut is None:
            break
        end = text.find("\n", cut + rng.randint(200, 900))
        end = len(text) if end < 0 else end
        user, assistant = text[pos:cut].strip(), text[cut:end].strip()
        if domain.startswith("code-"):
            assistant = text[cut:end].rstrip().lstrip(" ")
        if user and assistant.strip():
            out.append((user, assistant))
        pos = end + 1
    return out


def conversation_ids(tokenizer, user, assistant):
    newline = tokenizer.encode("\n")
    return [USER, *newline, *tokenizer.encode(user), END, *newline,
            ASSISTANT, *newline, *tokenizer.encode(assistant), END, *newline, END_OF_TEXT]


def chat_stream(tokenizer, domain, texts, max_tokens, seed):
    """Token ids of conversations drawn from shuffled documents, up to about max_tokens."""
    rng = random.Random(f"{seed}/{domain}")
    order = list(range(len(texts)))
    rng.shuffle(order)
    ids = []
    for i in order:
        for user, assistant in turns(domain, texts[i], rng):
            ids.extend(conversation_ids(tokenizer, user, assistant))
        if len(ids) >= max_tokens:
            break
    return ids
